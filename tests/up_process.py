"""`osworld-env up` as a process of its own, with real desktops, for tests."""

import json
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from osworld_contract.registry import Registry, read_registry
from server_process import clean_environment
from waiting import wait_until

READY_DEADLINE_S = 180.0
STOP_DEADLINE_S = 70.0
TOKEN = "the-routers-token"
FRUGAL = {"OSWORLD_SPARE_DESKTOPS": "0", "OSWORLD_TOKEN": TOKEN}


@dataclass
class Up:
    """One running `osworld-env up`. A context manager: leaving kills what a test left running."""

    folder: Path
    envs: int
    spares: int = 0
    variables: dict[str, str] = field(default_factory=dict)
    provider: str = "xvfb"
    step_pause_s: float = 0.1
    """Of the trainer it is 0.5: enough for a screen to come to rest, which an episode that is played again needs."""
    wrap: tuple[str, ...] = ()
    """Command that starts it, and becomes it."""

    def __enter__(self) -> Self:
        self.log_path = self.folder / "up.log"
        ready_file = self.folder / "ready.json"
        argv = ["up", "--envs", str(self.envs), "--spares", str(self.spares), "--port", "0"]
        argv += ["--provider", self.provider, "--step-pause-s", str(self.step_pause_s), "--ready-file", str(ready_file)]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*self.wrap, sys.executable, "-m", "osworld_env", *argv],
                env=clean_environment(**FRUGAL, **self.variables),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(lambda: ready_file.exists() or self.process.poll() is not None, READY_DEADLINE_S, "up is ready")
        assert self.process.poll() is None, self.log
        ready = json.loads(ready_file.read_text())
        self.url: str = ready["router_url"]
        self.run_dir = Path(ready["run_dir"])
        self.env_pids: list[int] = [env["pid"] for env in ready["envs"]]
        return self

    def __exit__(self, *_: object) -> None:
        logs = self.folder / "logs"  # the run folder goes with its pool
        logs.mkdir(exist_ok=True)
        for log in self.run_dir.glob("*.log"):
            shutil.copy(log, logs)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(STOP_DEADLINE_S)

    @property
    def router_pid(self) -> int:
        """Return the router's process id."""
        pids = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # a desktop's may end meanwhile
                if "osworld_router" in child.cmdline():
                    pids.append(child.pid)
        [pid] = pids
        return int(pid)

    @property
    def log(self) -> str:
        """Return what the command has printed."""
        return self.log_path.read_text()

    @property
    def registry(self) -> Registry:
        """Return the registry as it is now."""
        return read_registry(self.run_dir / "registry.json")

    @property
    def token_url(self) -> str:
        """Return the router's URL with its token as user info."""
        return self.url.replace("http://", f"http://job:{TOKEN}@")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of osworld-env beside it."""
        return subprocess.run(
            [sys.executable, "-m", "osworld_env", *arguments],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            cwd=self.folder,
            env=clean_environment(),
        )

    def descendants(self) -> list[int]:
        """Return the processes that this one started, and those that they did."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(stat.parent.name)] = int(fields[1])
        found = [self.process.pid]
        for pid in found:
            found.extend(child for child, parent in parents.items() if parent == pid)
        return found[1:]


def alive(pids: list[int]) -> list[int]:
    """Return those of `pids` that still run."""
    running = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            running.append(pid)
    return running
