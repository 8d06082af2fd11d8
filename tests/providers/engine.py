"""A Docker engine of the tests' own, and the small image in it: ``python tests/providers/engine.py`` builds its base.

The engine runs in a PID and mount namespace that ends with it, containers included, over a bridge of its own. It
changes no rule of the machine's firewall: published ports go through its proxy.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

HERE: Final = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from osworld_contract.places import cache_dir  # noqa: E402 - a script finds its siblings only so
from waiting import wait_until  # noqa: E402

BRIDGE: Final = "owedocker0"
GATEWAY: Final = "198.19.250.1/24"
"""Of the benchmarking range, which no network routes, and beside the nodes' (tests/nodes/places.py)."""

PACKAGES: Final = "python3-minimal,libpython3-stdlib"
SUITE: Final = "bookworm"
IMAGE: Final = "local/small-guest:1"
UP_DEADLINE_S: Final = 60.0
STOP_DEADLINE_S: Final = 30.0
BUILD_DEADLINE_S: Final = 900.0


def base_archive() -> Path:
    """Return the archive of the image's base: Debian with a small Python."""
    digest = hashlib.sha256(f"{SUITE} {PACKAGES}".encode()).hexdigest()[:16]
    return cache_dir() / "test-docker" / f"base-{digest}.tar"


def build_base() -> None:
    """Build the base where it is missing."""
    target = base_archive()
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return
        part = target.with_suffix(".part.tar")
        part.unlink(missing_ok=True)
        _run("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(part), deadline_s=BUILD_DEADLINE_S)
        part.rename(target)


@dataclass(frozen=True)
class Engine:
    """A running engine."""

    socket: Path
    log_path: Path

    @property
    def host(self) -> str:
        """Return the value of ``DOCKER_HOST``."""
        return f"unix://{self.socket}"

    def docker(self, *arguments: str) -> str:
        """Return what a docker command prints; it must end well."""
        return _run("docker", "-H", self.host, *arguments, deadline_s=120.0)

    def containers(self, status: str | None = None) -> list[str]:
        """Return the names of all containers, also of those that have ended, or of those in this status."""
        chosen = [f"--filter=status={status}"] if status else []
        return self.docker("ps", "--all", *chosen, "--format", "{{.Names}}").split()

    def status(self, container: str) -> str:
        """Return the state of a container in a word."""
        return self.docker("inspect", "--format", "{{.State.Status}}", container).strip()

    def devices(self, container: str) -> list[str]:
        """Return the devices that were passed to a container."""
        found = json.loads(self.docker("inspect", "--format", "{{json .HostConfig.Devices}}", container)) or []
        return [each["PathOnHost"] for each in found]

    def volumes(self) -> list[str]:
        """Return the names of all volumes."""
        return self.docker("volume", "ls", "--quiet").split()


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """Give a running engine with the small image. Nothing of it is left afterwards."""
    running = Engine(folder / "engine.sock", folder / "engine.log")
    _drop_bridge()  # of a run that was killed
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    argv = [
        "setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--mount", "--fork", "--kill-child=KILL", "--mount-proc",
        "dockerd", "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"), "--host", running.host,
        "--pidfile", str(folder / "engine.pid"), "--bridge", BRIDGE, "--iptables=false", "--ip6tables=false",
        "--ip-masq=false",
    ]  # fmt: skip
    try:
        _run("ip", "address", "add", GATEWAY, "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        with running.log_path.open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
            try:
                wait_until(lambda: _is_up(running, process), UP_DEADLINE_S, f"the engine, log {running.log_path}")
                _make_image(running)
                yield running
            finally:
                for child in psutil.Process(process.pid).children():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.terminate()  # the engine itself: `unshare` would not pass it on
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_DEADLINE_S)
                process.kill()
    finally:
        _drop_bridge()
        shutil.rmtree(folder / "data", ignore_errors=True)


def _is_up(running: Engine, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, running.log_path.read_text()[-2000:]
    argv = ["docker", "-H", running.host, "version"]
    return subprocess.run(argv, capture_output=True, timeout=30, check=False).returncode == 0


def _make_image(running: Engine) -> None:
    running.docker("import", str(base_archive()), "local/base:1")
    container = running.docker("create", "local/base:1", "true").strip()
    for name, place in (
        ("small_guest.py", "/guest.py"),
        ("pyautogui.py", "/usr/lib/python3.11/pyautogui.py"),
    ):
        running.docker("cp", str(HERE / name), f"{container}:{place}")
    # As OSWorld's image does: the guest's disk is in a volume, and `python` is a program's name.
    command = 'CMD ["/bin/sh", "-c", "ln -sf python3 /usr/bin/python && exec python3 /guest.py"]'
    running.docker("commit", "--change", command, "--change", "VOLUME /storage", container, IMAGE)
    running.docker("rm", container)


def _drop_bridge() -> None:
    subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, timeout=30, check=False)


def _run(*argv: str, deadline_s: float = 30.0) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=deadline_s, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv[:6])}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    build_base()
