"""What keeps the zygote as it is although its runners may run code of an agent's, under the same user.

A runner must not be able to read or change the zygote's memory, nor leave anything running, nor leave the zygote with
other limits than it had: all of it would reach the operations that come after.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
"""Source: prctl(2)."""
_END_ROUNDS = 100
_END_PAUSE_S = 0.01
_LIMITS = tuple(value for name, value in sorted(vars(resource).items()) if name.startswith("RLIMIT_"))

Standing = tuple[object, ...]


class NotEnded(Exception):
    """Processes of a runner's are left that cannot be ended."""


def is_boxed() -> bool:
    """Whether this process is the first one of a sandbox, whose signals reach nothing else."""
    return sys.platform == "linux" and os.getpid() == 1


def close() -> None:
    """Refuse ptrace and ``/proc/<pid>/mem`` of this process to others of its user."""
    _set(_PR_SET_DUMPABLE, 0)


def close_to_runners() -> None:
    """Refuse ptrace and ``/proc/<pid>/mem`` to processes of the same user, and adopt what a runner leaves."""
    if is_boxed():  # without a sandbox it would only take an unprivileged env server's view of the memory
        close()
    _set(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Have the kernel end this process when its parent ends."""
    _set(_PR_SET_PDEATHSIG, signal.SIGKILL)


def standing() -> Standing:
    """Return what another process of the same user can change of this one: limits, priority, processors."""
    limits = tuple(resource.getrlimit(limit) for limit in _LIMITS)
    processors = frozenset(os.sched_getaffinity(0)) if sys.platform == "linux" else None
    return (*limits, os.getpriority(os.PRIO_PROCESS, 0), processors)


def end_children() -> None:
    """Kill and reap every process below this one.

    Raises:
        NotEnded: Some are left.
    """
    for _ in range(_END_ROUNDS):
        _kill_children()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(_END_PAUSE_S)
    raise NotEnded


def _kill_children() -> None:
    if is_boxed():
        # All of the sandbox but this process, in one move: no process can fork itself away from it.
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        return
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _set(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
