"""Brings an episode that was lost elsewhere to where it was: reset, the recorded steps, and a look after each.

The steps are those of any episode; only what comes between them is decided here.
"""

import asyncio
import base64
import logging
import time
from typing import Final

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_contract.replay import ReplayRequest, Sight
from osworld_envpod.comparison import SETTLE_S, difference
from osworld_envpod.episode import Episode, Observation
from osworld_envpod.runner import Runner

logger = logging.getLogger(__name__)

LOOK_AGAIN_S: Final = 0.05
"""Between two looks at a desktop that is not yet as it was: a caret has some ten of them in each phase."""


class Replayer:
    """Plays one episode again."""

    def __init__(self, runner: Runner, episode: Episode) -> None:
        self._runner = runner
        self._episode = episode

    async def replay(self, request: ReplayRequest) -> Observation:
        """Play `request` on a clean desktop, and return what its last call came to.

        Raises:
            FaultError: ``replay_diverged`` at the first difference, or whatever went wrong; the episode is faulted.
        """
        began = time.monotonic()
        try:
            return await self._played(request)
        finally:
            self._runner.note_replay(self._episode, time.monotonic() - began)

    async def _played(self, request: ReplayRequest) -> Observation:
        observation = await self._runner.reset(self._episode, self._runner.settings.reset_timeout_s)
        await self._compare(request.seen, observation, "the reset")
        answered = time.monotonic()
        for number, step in enumerate(request.steps, 1):
            await self._pause(answered, step.pause_s)
            observation = await self._runner.step(self._episode, step.call.prediction, step.key)
            answered = time.monotonic()
            if observation.fault is not None:
                raise FaultError(observation.fault)
            await self._compare(step.seen, observation, f"step {number}")
        await self._pause(answered, request.pause_s)
        logger.info("Episode %s was played again: %d steps", self._episode.id, len(request.steps))
        return observation

    async def _compare(self, seen: Sight, observation: Observation, what: str) -> None:
        """Wait a moment for the desktop to look as `seen`, and show its client the very same screenshot again."""
        windows = observation.mark.windows if observation.mark else None
        frame = self._runner.last_frame if observation.end is not None else None
        differs = await asyncio.to_thread(difference, seen, frame, windows)
        end = time.monotonic() + SETTLE_S
        while differs is not None and time.monotonic() < end:
            await asyncio.sleep(LOOK_AGAIN_S)
            now, windows = await self._runner.look_again()
            frame = now if observation.end is not None else None
            differs = await asyncio.to_thread(difference, seen, frame, windows)
        await self._runner.rest()
        if differs is not None:
            error = fault_error(FaultReason.REPLAY_DIVERGED, f"after {what}: {differs}", after=what)
            self._runner.ledger.note_fault(self._episode, error.fault, None)
            raise error
        if seen.screen_b64 is not None:
            self._episode.history.replace_screenshot(base64.b64decode(seen.screen_b64))

    async def _pause(self, answered: float, pause_s: float) -> None:
        """Let as much time pass in the desktop as passed between two calls; where it is paused, none did."""
        if not self._runner.pauses:
            await asyncio.sleep(max(0.0, answered + pause_s - time.monotonic()))
