"""A real sshd on loopback, with keys of its own, for one user: the one who runs the tests."""

import getpass
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from osworld_contract.places import cache_dir
from osworld_env.ports import free_port
from server_process import clean_environment
from waiting import wait_until

PROGRAM = cache_dir() / "test-sshd" / "usr" / "sbin" / "sshd"
"""Of Debian's package, unpacked by `make setup-all`: installed, it would listen on port 22."""

READY_DEADLINE_S = 20.0
END_DEADLINE_S = 20.0

_SSHD_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
"""

_SSH_CONFIG = """\
Host cluster vm
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
"""


@dataclass
class Sshd:
    """An sshd that can be ended and started again. A context manager."""

    folder: Path
    port: int = field(default_factory=free_port)

    def __enter__(self) -> Self:
        for key in ("host_key", "user_key"):
            self.make_key(key)
        self.know_host()
        (self.folder / "sshd_config").write_text(_SSHD_CONFIG.format(port=self.port, folder=self.folder))
        text = _SSH_CONFIG.format(port=self.port, folder=self.folder, user=getpass.getuser())
        self.ssh_config.write_text(text)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def ssh_config(self) -> Path:
        """Return ssh's configuration, with the hosts `cluster` and `vm`."""
        return self.folder / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        """Return the file of known host keys."""
        return self.folder / "known_hosts"

    def make_key(self, name: str) -> None:
        """Make the key pair `name`, in the place of one that is there."""
        (self.folder / name).unlink(missing_ok=True)
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)

    def know_host(self) -> None:
        """Make the host's key the known one."""
        kind, key = (self.folder / "host_key.pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def start(self) -> None:
        """Start it, and wait until it listens."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # it insists, as root
        assert PROGRAM.exists(), "there is no sshd: run `make setup-all`"
        with (self.folder / "sshd.log").open("ab") as log:
            argv = [*self._with_its_user(), str(PROGRAM), "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)
        wait_until(lambda: answers(self.port), READY_DEADLINE_S, "sshd listens")

    def _with_its_user(self) -> list[str]:
        """Return the command that lets root's sshd find the user that Debian's package makes, where there is none."""
        users = Path("/etc/passwd").read_text()
        if os.geteuid() != 0 or "\nsshd:" in users:
            return []
        own = self.folder / "passwd"
        own.write_text(users + "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n")
        return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/passwd && exec "$@"', str(own)]

    def end(self) -> None:
        """End it and its connections, at once."""
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        pids = [int(pid) for pid in children.stdout.split()]
        self.process.kill()
        self.process.wait(END_DEADLINE_S)
        for pid in pids:
            subprocess.run(["pkill", "-KILL", "-P", str(pid)], check=False)
            subprocess.run(["kill", "-KILL", str(pid)], check=False, stderr=subprocess.DEVNULL)


@dataclass
class Tunnel:
    """A running `osworld-env tunnel`. A context manager."""

    folder: Path
    arguments: tuple[str, ...]

    def __enter__(self) -> Self:
        self.log_path = self.folder / "tunnel.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "osworld_env", "tunnel", *self.arguments],
                env=clean_environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(END_DEADLINE_S)

    @property
    def log(self) -> str:
        """Return what it has printed."""
        return self.log_path.read_text()

    def ended(self) -> str:
        """Wait until it ends by itself, with a failure, and return what it has printed."""
        assert self.process.wait(END_DEADLINE_S) == 1, self.log
        return self.log


def answers(port: int) -> bool:
    """Return whether something listens on `port` of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
