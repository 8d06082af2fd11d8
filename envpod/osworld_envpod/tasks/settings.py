"""Settings of the task worker, as the env server builds them from its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from osworld_contract.names import GUEST_PASSWORD, SCREEN_HEIGHT_PX, SCREEN_WIDTH_PX
from osworld_contract.places import downloads_dir, worker_venv_dir

HOST_UID: Final = 61001
"""User on the host as whom a root-owned env server's worker runs; desktops have 61000.

Source: Debian policy, 9.2.2 "UID and GID classes" (60000-64999 are allocated on demand only).
"""


def worker_python() -> Path:
    """Return the interpreter that `osworld_envpod.tasks.provision` makes."""
    # Resolved, so that a worker keeps its environment where a newer one is made beside it.
    return worker_venv_dir().resolve() / "bin" / "python"


@dataclass(frozen=True)
class WorkerSettings:
    """One env server's task worker. Two workers must not share `cache_dir`."""

    cache_dir: Path
    """Folder of this worker alone: HOME, working directory, files of the episode. Made by start, removed by stop."""
    python: Path = field(default_factory=worker_python)
    """Interpreter of the environment that has desktop-env."""
    memory_limit_mib: int = 3072
    """Proportional set size of the worker and all below it at which it is ended. Idle it has 250 (measured); what the
    largest metrics need has not been measured: a guess with room."""
    watch_interval_s: float = 0.25
    """Pause between looks at the memory. A process can fill about 250 MiB in it."""
    client_password: str = GUEST_PASSWORD
    """Password of the desktop's user, which setup steps put into commands."""
    screen_px: tuple[int, int] = (SCREEN_WIDTH_PX, SCREEN_HEIGHT_PX)
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that the worker gets beyond its minimal own, such as HTTPS_PROXY or an evaluator's API key. The values
    are secrets: they are removed from every fault and log line. Files of the agent's are evaluated in the worker's
    process, which sees them, so pass only what a task needs."""
    sandbox: bool = True
    """Run the worker in bubblewrap, out of whose reach everything is but its own folders and the network. Files of the
    agent's are evaluated in the worker: without the sandbox they can read and change what the env server can, other
    episodes' scores included. Off only where a container or pod around the env server is the box."""
    host_uid: int = HOST_UID
    """User and group on the host that a sandboxed worker runs as where the env server is root; else its own."""
    mirror: Path | None = None
    """Folder with files that tasks would download; `osworld_envpod.tasks.child.downloads` says how it is laid out."""
    download_dir: Path = field(default_factory=downloads_dir)
    """Whole files that tasks have downloaded, by the hash of their address. All workers of a machine share it; only
    their file servers can reach it."""
    download_connect_timeout_s: float = 10.0
    download_read_timeout_s: float = 60.0
    """Longest silence of a server in the middle of a file."""
    download_cache_max_mib: int = 10240
    """Bound of `download_dir`, past which the files used longest ago are removed. A guess."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return what must not be shown. OSWorld's published password is none, and a word of many messages."""
        own = () if self.client_password == GUEST_PASSWORD else (self.client_password,)
        return (*own, *(value for name, value in self.environment.items() if name != "NO_PROXY"))

    @property
    def proxies(self) -> dict[str, str]:
        """Return the part of `environment` that downloads need."""
        return {name: value for name, value in self.environment.items() if name.upper().endswith("_PROXY")}
