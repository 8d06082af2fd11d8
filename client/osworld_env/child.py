"""One started program: its log in a file, tethered to this process, stopped in rungs."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from osworld_env.errors import ProgramError

_logger = logging.getLogger(__name__)

_TETHER: Final = Path(__file__).with_name("tether.py")

KILL_DEADLINE_S: Final = 5.0
"""From SIGKILL to reaped. A guess with room: only a process in uninterruptible sleep takes longer."""

LOG_TAIL_LINES: Final = 15
_LOG_TAIL_BYTES: Final = 16_384


class Child:
    """A program in a session of its own, so that a terminal's Ctrl-C reaches only whoever is to stop it."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._process = process

    @classmethod
    async def start(
        cls, name: str, argv: Sequence[str], environment: Mapping[str, str], log_path: Path, fds: Sequence[int] = ()
    ) -> Self:
        """Start `argv` with `environment`, output appended to `log_path`. Only from the main thread: see `tether`.

        It inherits the open files `fds`.

        Raises:
            ProgramError: It cannot be started.
        """
        tethered = (sys.executable, "-ISE", str(_TETHER), str(os.getpid()), *argv)
        try:
            with log_path.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *tethered,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=asyncio.subprocess.STDOUT,
                    env=dict(environment),
                    start_new_session=True,
                    pass_fds=tuple(fds),
                )
        except OSError as error:
            raise ProgramError(f"{name} cannot be started: {error.strerror}") from error
        return cls(name, process, log_path)

    @property
    def pid(self) -> int:
        """Return the process id; also the id of its process group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait, without a deadline, until the program ends, and return its exit code. For tasks that have an owner."""
        return await self._process.wait()

    async def stop(self, deadline_s: float) -> None:
        """End the program and reap it: SIGTERM, after `deadline_s` SIGKILL to its whole group. Can run twice."""
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(deadline_s):
                    await self._process.wait()
            except TimeoutError:
                _logger.warning("%s (pid %d) ignored SIGTERM for %g s: killing it", self.name, self.pid, deadline_s)
                await self.kill()

    async def kill(self) -> None:
        """End the program's whole group by SIGKILL and reap the program."""
        self.send_kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_DEADLINE_S):
                await self._process.wait()
        if self._process.returncode is None:
            _logger.error("%s (pid %d) is still there %g s after SIGKILL", self.name, self.pid, KILL_DEADLINE_S)

    def send_kill(self) -> None:
        """Send SIGKILL to the program's whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def log_tail(self) -> tuple[str, ...]:
        """Return the last lines of the program's log."""
        return log_tail(self.log_path)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


def log_tail(path: Path, lines: int = LOG_TAIL_LINES) -> tuple[str, ...]:
    """Return the last `lines` lines of the file at `path`; none where it cannot be read."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple(text.splitlines()[-lines:])


def exit_words(returncode: int) -> str:
    """Return how a program ended, in words."""
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"
