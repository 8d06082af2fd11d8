"""The processes of a session: which there are, and how one is started. Standard library only."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO


@dataclass(frozen=True)
class Program:
    """One program of the session."""

    name: str
    argv: Sequence[str]
    is_vital: bool = False
    """The session ends with it. One that is not vital is started again."""
    may_end: bool = False
    """It is not started again where it has ended well: the session bus has started one already."""
    keeps_log: bool = False
    """Its output goes to the session's own; that of other programs stays inside the desktop."""
    pass_fds: Sequence[int] = field(default=())


def start_program(program: Program, environment: dict[str, str], inner_log: IO[bytes]) -> int:
    """Start `program` in a session of its own and return its process id.

    Raises:
        OSError: The program is not there or cannot be run.
    """
    output = None if program.keeps_log else inner_log
    process = subprocess.Popen(
        list(program.argv),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=tuple(program.pass_fds),
        start_new_session=True,
        cwd=environment["HOME"],
    )
    process.returncode = 0  # reaped by the session's own wait for any child; keeps Popen from waiting or warning
    return process.pid


def close_fds(fds: Sequence[int]) -> None:
    """Close `fds`, which children have inherited by now."""
    for fd in fds:
        os.close(fd)
