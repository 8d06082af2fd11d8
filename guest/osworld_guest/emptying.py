"""Leaves nothing of an episode in a desktop's container: processes, files, and what the kernel keeps without either.

Only for a container's PID 1, which is the one process that the agent's, of the same user, cannot signal or trace.
Standard library only.
"""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osworld_guest import layout

FOLDERS: Final = (
    layout.HOME, Path("/tmp"), Path("/run"), Path("/var/tmp"), Path("/dev/shm"), Path("/dev/mqueue"),  # noqa: S108
)  # fmt: skip
"""What a desktop can write to; the rest of its root is read-only."""

TERMINATION_LOG: Final = Path("/dev/termination-log")
"""A file of the node's that every container of Kubernetes can write to."""

IPC_OPTIONS: Final = {"shm": "-m", "msg": "-q", "sem": "-s"}
"""Options of ipcrm(1) by the names in /proc/sysvipc. The IPC namespace is the pod's, and outlives its containers."""

PROCESSES_DEADLINE_S: Final = 30.0
"""For every process to end. A guess with room: 20 ms; the end of one that holds much memory takes longer."""

FILES_DEADLINE_S: Final = 120.0
"""For every file to be removed. A guess with room: a million files in memory take some 5 s."""

RETRY_S: Final = 0.005
SHOWN_MAX: Final = 5
ALL_PROCESSORS: Final = range(1024)
PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"


class NotEmptyError(Exception):
    """Something of the episode is still there. Says what."""


@dataclass(frozen=True)
class OwnState:
    """What of PID 1 another process of its user can change, and its children inherit."""

    limits: tuple[tuple[int, int], ...]
    nice: int
    scheduler: int

    @classmethod
    def now(cls) -> "OwnState":
        """Return the state as it is."""
        names = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
        limits = tuple(resource.getrlimit(getattr(resource, name)) for name in names)
        return cls(limits, os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0))


def empty(own: OwnState) -> None:
    """End every process but this one, then remove every file; `own` is this process's state from before any episode.

    Raises:
        NotEmptyError: Something is still there, or this process was tampered with.
        OSError: The system refuses to tell.
    """
    end_processes(PROCESSES_DEADLINE_S)
    remove_files(FILES_DEADLINE_S)
    remove_ipc()
    os.sched_setaffinity(0, ALL_PROCESSORS)
    if OwnState.now() != own:
        raise NotEmptyError("the limits or the priority of the desktop's PID 1 were changed from inside")


def end_processes(deadline_s: float) -> None:
    """End every process but this one, and reap.

    A signal to all reaches stopped processes and those of other sessions, and none can fork past it. The kernel says
    that there is nobody to signal when all are gone, dead ones included.
    """
    end = time.monotonic() + deadline_s
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            break
        reap()
        if time.monotonic() > end:
            raise NotEmptyError(f"processes did not end in {deadline_s:g} s: {_shown(other_processes())}")
        time.sleep(RETRY_S)  # a process that was started by another container's cannot be waited for
    if others := other_processes():
        raise NotEmptyError(f"processes are left: {_shown(others)}")


def reap() -> dict[int, int]:
    """Reap every child that has ended and return their exit codes by process id."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended


def other_processes() -> list[str]:
    """Return every process but this one, as ``pid name``."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):  # it ended meanwhile
                found.append(f"{folder.name} {(folder / 'comm').read_text().strip()}")
    return found


def remove_files(deadline_s: float) -> None:
    """Remove everything below `FOLDERS`. They stay themselves: they are mounts."""
    folders = [folder for folder in FOLDERS if folder.is_dir()]
    # find and chmod go down trees that are deeper than any path or stack may be long.
    _run(["chmod", "--recursive", "--silent", "u+rwX", *map(str, folders)], deadline_s)
    _run(["find", *map(str, folders), "-mindepth", "1", "-delete"], deadline_s)
    if left := [str(path) for folder in folders for path in folder.iterdir()]:
        raise NotEmptyError(f"files are left: {_shown(left)}")
    if TERMINATION_LOG.exists() and os.access(TERMINATION_LOG, os.W_OK):
        os.truncate(TERMINATION_LOG, 0)


def remove_ipc() -> None:
    """Remove the System V objects that this user made. POSIX ones are files of /dev/shm and /dev/mqueue."""
    for kind, option in IPC_OPTIONS.items():
        for number in own_ipc(kind):
            _run(["ipcrm", option, number], PROCESSES_DEADLINE_S)
        if left := own_ipc(kind):
            raise NotEmptyError(f"System V objects are left: {kind} {_shown(left)}")


def own_ipc(kind: str) -> list[str]:
    """Return the numbers of this user's objects of `kind`."""
    try:
        head, *lines = Path("/proc/sysvipc", kind).read_text().splitlines()
    except FileNotFoundError:  # a kernel without them
        return []
    columns = head.split()
    rows = [dict(zip(columns, line.split(), strict=True)) for line in lines]
    user = str(os.getuid())
    return [row[columns[1]] for row in rows if user in (row["uid"], row["cuid"])]


def _run(argv: Sequence[str], deadline_s: float) -> None:
    """Run a program of the image; what it could not do is seen afterwards."""
    try:
        subprocess.run(
            argv,
            env={"PATH": PATH, "LANG": "C.UTF-8"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotEmptyError(f"{argv[0]} did not end in {deadline_s:g} s") from error


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
    return ", ".join(names[:SHOWN_MAX]) + more
