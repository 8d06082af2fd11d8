"""The one place where images' file work leaves the event loop."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The work was given up: who asked for it does not want it any more."""


class StopFlag:
    """Tells blocking work that nobody waits for it any more."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask the work to end."""
        self._event.set()

    def check(self) -> None:
        """Raise `Stopped` if the work is to end. Called for each block of a file."""
        if self._event.is_set():
            raise Stopped


async def in_thread(work: Callable[[StopFlag], T]) -> T:
    """Run `work` in a thread. A cancelled caller waits for the thread: a lock must not be let go under its writes."""
    stop = StopFlag()
    task = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen: it is of no use to a caller that is gone
        raise
