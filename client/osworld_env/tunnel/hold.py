"""Holding one leg of a tunnel: start ssh, read what it says, and start it again, later each time, where it ends."""

import asyncio
import logging
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osworld_env import tether
from osworld_env.errors import ProgramError
from osworld_env.tunnel.legs import Leg
from osworld_env.tunnel.verdict import Ending, ending_of, is_up, words_of

_logger = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
"""Doubled from the first to this. A guess: soon enough after a VM's boot, seldom enough for an sshd's log."""

STOP_DEADLINE_S: Final = 3.0
"""From SIGTERM to SIGKILL. A guess with room: ssh ends at once."""

_LINES_KEPT: Final = 40

NextLeg = Callable[[], Awaitable[Leg]]
"""Returns the leg for the next start of ssh; may wait."""


@dataclass(frozen=True)
class Holding:
    """How legs are held."""

    ssh: str
    """The program's path."""

    ssh_config: Path | None = None
    first_pause_s: float = FIRST_PAUSE_S
    longest_pause_s: float = LONGEST_PAUSE_S


async def hold(next_leg: NextLeg, holding: Holding, on_up: Callable[[Leg], None]) -> None:
    """Keep a leg up until cancelled. From the main thread only.

    Args:
        next_leg: Asked before each start of ssh.
        holding: How.
        on_up: Called each time that a forward is there.

    Raises:
        ProgramError: Trying again is of no use; says in one sentence what a person has to do.
    """
    pause_s = holding.first_pause_s
    was_up_once = False
    while True:
        was_up, ending, words = await _run_once(await next_leg(), holding, on_up)
        was_up_once |= was_up
        if ending.is_lasting and not (ending.is_port and was_up_once):
            raise ProgramError(ending.sentence, words)
        if was_up:
            pause_s = holding.first_pause_s
        _logger.warning("%s; trying again in %g s", ending.sentence, pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, holding.longest_pause_s)


async def _run_once(leg: Leg, holding: Holding, on_up: Callable[[Leg], None]) -> tuple[bool, Ending, tuple[str, ...]]:
    lines: deque[str] = deque(maxlen=_LINES_KEPT)
    was_up = False
    async with _ssh(leg, holding) as process:
        assert process.stderr is not None
        async for raw in process.stderr:
            line = raw.decode("utf-8", "replace").rstrip()
            if is_up(leg, line):
                was_up = True
                on_up(leg)
            elif words_of([line]):
                lines.append(line)
        await process.wait()
    return was_up, ending_of(leg, lines), tuple(lines)


@asynccontextmanager
async def _ssh(leg: Leg, holding: Holding) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run ssh for `leg`; leaving ends and reaps it, and it ends with this process, however that ends."""
    tethered = (sys.executable, "-ISE", tether.__file__, str(os.getpid()))
    process = await asyncio.create_subprocess_exec(
        *tethered,
        *leg.argv(holding.ssh, holding.ssh_config),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},  # its words are read
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
