"""The wait for the worker's environment, where another process of this machine is making it."""

import asyncio
import logging
import time
from pathlib import Path
from typing import Final

from osworld_envpod.tasks.provision import LOCK_DEADLINE_S, WAIT_LOG_S, WAITING, is_being_made

log = logging.getLogger(__name__)

_PAUSE_S: Final = 0.5
"""The kernel tells nobody when such a lock is free."""


async def await_environment(python: Path, deadline_s: float = LOCK_DEADLINE_S) -> None:
    """Return once `python` is there, or nobody makes it: then the launch says what to do, as it does past the deadline.

    A first start beside an install would end by its missing interpreter, minutes before that is there.
    """
    began_s = tell_s = time.monotonic()
    while await asyncio.to_thread(_is_on_its_way, python):
        now_s = time.monotonic()
        if now_s > began_s + deadline_s:
            log.warning("%s has not come within %.0f s", python, deadline_s)
            return
        if now_s >= tell_s:
            log.info(WAITING, now_s - began_s)
            tell_s = now_s + WAIT_LOG_S
        await asyncio.sleep(_PAUSE_S)


def _is_on_its_way(python: Path) -> bool:
    return not python.exists() and is_being_made()
