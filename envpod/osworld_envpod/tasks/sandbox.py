"""From settings to the command line of the worker's sandbox. Pure but for `read_host`, which looks at this machine.

What evaluator code can see is listed here, and nothing else exists for it: of the host's root /usr and files of /etc
by name, the worker's environment and code read-only, and folders of this worker alone to write to. The network is the
host's: setup steps download, and the desktop's ports are on loopback.
"""

import functools
import os
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osworld_envpod.tasks import folders
from osworld_envpod.tasks.readable import ETC_FILES, FONT_CACHE, USR_LINKS, environment_of, interpreter_folders

INSIDE: Final = Path("/worker")
"""Where the worker's folders are in the sandbox."""
_UID: Final = "1000"
_HOSTNAME: Final = "task-worker"
_STAGE: Final = Path("/mnt")
"""Any folder that is on every machine and that neither system programs nor libraries are in."""
_NPROC_MAX: Final = 16384
"""Threads of one user, as of desktops. Stops fork bombs."""
_HELP_DEADLINE_S: Final = 5.0
_PACKAGES: Final = {"prlimit": "util-linux", "setpriv": "util-linux", "bwrap": "bubblewrap"}
OPT_OUT: Final = "where a container or pod is the box already, OSWORLD_WORKER_SANDBOX=0 does without the sandbox"


@dataclass(frozen=True)
class Host:
    """What the command line depends on beside the settings."""

    is_root: bool
    root_folders: dict[str, str | None]
    """``bin``, ``lib`` and so on: the target where it is a link into /usr, None where it is a folder."""
    can_disable_userns: bool
    nproc_max: int


@dataclass(frozen=True)
class Plan:
    """What one worker is started with."""

    python: Path
    """Its interpreter, as the host sees it."""
    code: Path
    cache_dir: Path
    host_uid: int
    status_fd: int
    """Where bwrap writes the process id of the worker."""


@dataclass(frozen=True)
class _Bind:
    source: Path
    target: Path
    is_writable: bool = False


def read_host() -> Host:
    """Return the facts as they are now. Blocks for milliseconds, the first time."""
    root_folders: dict[str, str | None] = {}
    for name in USR_LINKS:
        path = Path("/", name)
        if path.is_symlink():
            root_folders[name] = str(path.readlink())
        elif path.is_dir():
            root_folders[name] = None
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NPROC)
    return Host(
        is_root=os.geteuid() == 0,
        root_folders=root_folders,
        can_disable_userns="--disable-userns" in _bwrap_help(),
        nproc_max=_NPROC_MAX if hard_limit == resource.RLIM_INFINITY else min(_NPROC_MAX, hard_limit),
    )


@functools.cache
def _bwrap_help() -> str:
    try:
        done = subprocess.run(
            ["bwrap", "--help"], capture_output=True, text=True, timeout=_HELP_DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def missing_programs() -> str:
    """Return a sentence that names what is not installed, empty where all is there."""
    missing = {name: package for name, package in _PACKAGES.items() if shutil.which(name) is None}
    if not missing:
        return ""
    return f"{', '.join(missing)} not found: install the Debian packages {' '.join(sorted(set(missing.values())))}"


def sandboxed(plan: Plan, host: Host, child_argv: list[str]) -> list[str]:
    """Return the command line that runs the worker's interpreter with `child_argv` in a sandbox, as its PID 1."""
    binds = _binds(plan)
    sources = [bind.source for bind in binds]
    start = ["prlimit", f"--nproc={host.nproc_max}", "--core=0"]
    if host.is_root:
        start += _staged(binds) + _dropped(plan.host_uid)
        sources = [_stage(number) for number in range(len(binds))]
    argv = [*start, *_isolated(host), "--json-status-fd", str(plan.status_fd), *_system(host)]
    for bind, source in zip(binds, sources, strict=True):
        argv += ["--bind" if bind.is_writable else "--ro-bind", str(source), str(bind.target)]
    # The root is in memory and the worker's: what one operation left in /etc or /dev would meet the next.
    argv += ["--symlink", str(INSIDE / "tmp").lstrip("/"), "/tmp", "--remount-ro", "/dev", "--remount-ro", "/"]  # noqa: S108
    return [*argv, "--chdir", str(INSIDE / "cwd"), "--", str(_inner_python(plan.python)), *child_argv]


def _isolated(host: Host) -> list[str]:
    argv = [
        "bwrap", "--unshare-user", "--uid", _UID, "--gid", _UID, "--unshare-pid", "--unshare-ipc", "--unshare-uts",
        "--unshare-cgroup-try", "--hostname", _HOSTNAME, "--die-with-parent", "--new-session", "--as-pid-1",
        "--cap-drop", "ALL",
    ]  # fmt: skip
    return [*argv, "--disable-userns"] if host.can_disable_userns else argv


def _dropped(uid: int) -> list[str]:
    """Return the change to an unprivileged user: root's sandbox reads root's files, whatever its user namespace."""
    return [
        "setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--inh-caps=-all",
        "--bounding-set=-all", "--no-new-privs",
    ]  # fmt: skip


def _staged(binds: list[_Bind]) -> list[str]:
    """Return a first bwrap, still root's, that puts everything where the unprivileged user can reach it.

    Interpreter and checkout may be under /root, the worker's folder in another that only root enters.
    """
    argv = ["bwrap", "--die-with-parent", "--dev-bind", "/", "/", "--tmpfs", str(_STAGE)]
    for number, bind in enumerate(binds):
        argv += ["--bind" if bind.is_writable else "--ro-bind", str(bind.source), str(_stage(number))]
    return [*argv, "--"]


def _stage(number: int) -> Path:
    return _STAGE / str(number)


def _system(host: Host) -> list[str]:
    argv = ["--ro-bind", "/usr", "/usr"]
    for name, target in host.root_folders.items():
        argv += ["--symlink", target, f"/{name}"] if target else ["--ro-bind", f"/{name}", f"/{name}"]
    for name in ETC_FILES:
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    argv += ["--ro-bind-try", str(FONT_CACHE), str(FONT_CACHE)]
    return [*argv, "--proc", "/proc", "--dev", "/dev"]


def _binds(plan: Plan) -> list[_Bind]:
    binds = [_Bind(plan.code, INSIDE / "code")]
    binds += [_Bind(plan.cache_dir / "etc" / name, Path("/etc", name)) for name in folders.ETC]
    binds += [_Bind(plan.cache_dir / name, INSIDE / name, is_writable=True) for name in folders.WRITABLE]
    binds.append(_Bind(plan.cache_dir / "shm", Path("/dev/shm"), is_writable=True))  # noqa: S108
    if (environment := environment_of(plan.python)) is not None:
        binds.append(_Bind(environment, INSIDE / "venv"))
    return binds + [_Bind(folder, folder) for folder in interpreter_folders(plan.python)]


def _inner_python(python: Path) -> Path:
    return INSIDE / "venv" / "bin" / python.name if environment_of(python) is not None else python
