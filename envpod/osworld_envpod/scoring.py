"""Who gets a score, and when: it is for what a client has seen. `server` asks."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_contract.wire import Phase
from osworld_envpod.episode import Episode
from osworld_envpod.runner import Runner
from osworld_envpod.settings import EnvServerSettings
from osworld_envpod.slot import ANYBODY, NET_MARGIN_S, Caller, Slot

logger = logging.getLogger(__name__)

ACK_WAIT_S = 2.0
"""How long an evaluate waits for the acknowledgement of the reply before it. A guess: the router sends one as soon as
its client has the reply, and that client asks for the score at once."""


@dataclass(frozen=True)
class Question:
    """An evaluate."""

    caller: Caller = ANYBODY
    is_unseen: bool = False
    """Whether its router knows nothing of the episode: a reset may have been lost that nobody heard of."""
    seen: str | None = None
    """Key of the last reset or step whose reply the client has, where it says so. It settles all of that."""


class Scoring:
    """Gives scores."""

    def __init__(self, settings: EnvServerSettings, runner: Runner, slot: Slot) -> None:
        self._settings = settings
        self._runner = runner
        self._slot = slot

    async def score(self, episode: Episode, question: Question, current: Callable[[], Episode]) -> float:
        """Return the score of `episode`, the same one for every call. Waits for a step, joins an evaluate.

        Waits a little for the acknowledgement of the reply before it, where one is due.

        Args:
            episode: The one that is asked about.
            question: Who asks, and what is known of what he has seen.
            current: The episode of the moment: it may be another one after a wait.

        Raises:
            FaultError: No score could be computed, or there is no episode.
        """
        began = time.monotonic()
        try:
            return await self._scored(episode, question, current)
        except FaultError as error:
            if error.fault.reason is FaultReason.REPLY_LOST:
                self._runner.note_unscored(episode, error.fault, time.monotonic() - began)
            raise

    async def _scored(self, episode: Episode, question: Question, current: Callable[[], Episode]) -> float:
        if episode.refused_reset is not None:
            raise FaultError(episode.refused_reset)
        instruction = episode.task.instruction[:80] if episode.task else "N/A"
        logger.info("POST /env/evaluate received (instruction=%r, step_counter=%d)", instruction, episode.actions_done)
        if episode.phase is Phase.IDLE:
            raise _no_episode()
        if question.is_unseen and question.seen is None:
            raise fault_error(
                FaultReason.REPLY_LOST,
                "its router may not know all that was told since the last reset or step: a reset may have been lost",
                operation="evaluate",
            )
        if (joined := await self._joined(episode, question)) is not None:
            return joined
        if episode.refused_reset is not None:
            raise FaultError(episode.refused_reset)
        if episode.score is not None:
            return episode.score
        if episode is not current() or episode.phase in {Phase.IDLE, Phase.RESETTING}:
            raise _no_episode()
        if episode.fault is not None and not self._can_try_again(episode):
            logger.info("Evaluation skipped: env has no setup_controller (reset failed). %s", episode.fault.message)
            raise FaultError(episode.fault)
        if not episode.delivery.is_made:
            raise fault_error(FaultReason.REPLY_LOST, operation="evaluate")
        deadline_s = self._settings.evaluate_timeout_s + NET_MARGIN_S
        return await self._slot.run("evaluate", None, self._runner.evaluate(episode), deadline_s, question.caller)

    async def _joined(self, episode: Episode, question: Question) -> float | None:
        """Wait until an evaluate of `episode` may begin; return the score of one that runs already.

        Raises:
            FaultError: ``infra/reply_lost`` where its last call is not the one that the client has seen.
        """
        is_awaited = False
        try:
            async with asyncio.timeout(self._settings.evaluate_timeout_s):
                while True:  # each wait may have let another call in
                    running = self._slot.operation
                    if running is not None and running.name == "step":
                        await asyncio.wait([running.task])
                        continue
                    if question.seen is not None:
                        _confirm(episode, question.seen)
                    if running is not None and running.name == "evaluate":
                        joined: float = await running.joined(question.caller.is_gone)
                        return joined
                    if not episode.delivery.is_pending or is_awaited:
                        return None
                    is_awaited = True
                    await episode.delivery.settled(ACK_WAIT_S)
        except TimeoutError as error:
            raise fault_error(FaultReason.OPERATION_TIMEOUT, operation="evaluate") from error

    def _can_try_again(self, episode: Episode) -> bool:
        return self._slot.operation is None and self._runner.may_evaluate_again(episode)


def _no_episode() -> FaultError:
    logger.info("Evaluation skipped: env not fully started (no setup_controller); there is no episode.")
    return fault_error(FaultReason.NO_EPISODE, operation="evaluate")


def _confirm(episode: Episode, seen: str) -> None:
    """Take the client's word that it has the reply to the call of `seen`."""
    if episode.phase in {Phase.IDLE, Phase.RESETTING}:
        return  # which has a fault of its own
    if seen != episode.last_key:
        message = "the last reset or step of this env is not the one whose reply the client has"
        raise fault_error(FaultReason.REPLY_LOST, message, operation="evaluate")
    episode.delivery.confirm()
