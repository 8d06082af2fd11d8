"""The env server: decides which operation may run on the one episode, and keeps the desktop in repair.

Nothing of HTTP is in here; `app` maps requests to these methods and `FaultError` to replies.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Coroutine
from typing import Any

from pydantic import JsonValue

from osworld_contract.faults import Fault, FaultError, FaultReason, fault_error
from osworld_contract.logs import EPISODE_BEGINS
from osworld_contract.task import parse_task
from osworld_contract.wire import DesktopStatus, EnvState, Phase
from osworld_envpod.desktops.base import STOP_DEADLINE_S, DesktopFacts, DesktopState
from osworld_envpod.episode import Episode, Observation
from osworld_envpod.metrics import EnvMetrics
from osworld_envpod.runner import Runner
from osworld_envpod.settings import EnvServerSettings
from osworld_envpod.slot import ANYBODY, Caller, IsGone, Slot, never_gone

logger = logging.getLogger(__name__)

KEEPER_TICK_S = 1.0
"""How soon an idle env server notices that its desktop ended or that its episode went idle."""

NET_MARGIN_S = 5.0
"""An operation ends by its own deadline with a fault of its own; the slot's deadline is only a net under it."""

ACK_WAIT_S = 2.0
"""How long an evaluate waits for the acknowledgement of the reply before it. A guess: the router sends one as soon as
its client has the reply, and that client asks for the score at once."""

ACTIVE_PHASES = frozenset({Phase.RESETTING, Phase.RUNNING, Phase.DONE, Phase.EVALUATING})


class EnvServer:
    """One episode at a time on one desktop."""

    def __init__(self, settings: EnvServerSettings, runner: Runner, metrics: EnvMetrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.episode = Episode()
        self.is_draining = False
        self.runner = runner
        self._slot = Slot(metrics, settings.pool, settings.provider.value)
        self._started = asyncio.Event()
        self._epoch = 0

    async def start(self) -> None:
        """Start the desktop.

        Raises:
            FaultError: It did not come up.
        """
        await self.runner.start()
        self.metrics.desktop_up.set(1)
        self._started.set()
        logger.info("Desktop ready: %s", self.facts)

    async def stop(self) -> None:
        """End the operation under way, the worker and the desktop. Can run twice."""
        await self._slot.end(STOP_DEADLINE_S)
        await self.runner.stop()

    async def keep(self) -> None:
        """Repair the desktop between episodes, and end episodes that nobody continues, until cancelled."""
        await self._started.wait()
        while True:
            await asyncio.sleep(KEEPER_TICK_S)  # providers' desktops have no event for their end
            self.metrics.desktop_up.set(int(self.runner.is_up))
            if self._slot.operation is None:
                try:
                    await self._kept()
                except FaultError as error:
                    logger.warning("The desktop could not be repaired, the next tick tries again: %s", error)
                except Exception:  # this task lives as long as the server: a defect must not end it unseen
                    logger.exception("A defect while keeping the desktop")

    async def _kept(self) -> None:
        """Do what is due now, with no operation under way."""
        idle_s = time.monotonic() - self._slot.last_end
        if not self.runner.is_up and self.episode.phase in {Phase.RUNNING, Phase.DONE}:
            self.runner.note_fault(self.episode, fault_error(FaultReason.DESKTOP_LOST).fault, None)
        elif self.episode.phase is not Phase.IDLE and idle_s > self.settings.idle_timeout_s:
            logger.info("Episode %s ended: no call for %.0f s", self.episode.id, idle_s)
            if self.episode.phase in {Phase.RUNNING, Phase.DONE}:
                self.metrics.episodes.labels("idle").inc()
            self.episode = Episode()
        is_used = self.episode.phase is Phase.IDLE and not self.runner.is_pristine
        if self.episode.phase not in ACTIVE_PHASES and (is_used or not self.runner.is_up):
            deadline_s = self.settings.reset_timeout_s + NET_MARGIN_S
            await self._slot.run("repair", None, self.runner.clean_desktop(self.settings.reset_timeout_s), deadline_s)

    async def reset(
        self, task_config: dict[str, JsonValue], key: str | None = None, caller: Caller = ANYBODY
    ) -> Observation:
        """Begin an episode on a clean desktop with the task set up.

        Waits for an operation whose callers hung up: a trainer whose router died in the middle of a call resets next,
        and would take a refusal for the end of this episode, and the score of the one before for its score.

        Raises:
            FaultError: What went wrong. After a ``client`` fault the episode of before can go on; see `refuse_scores`.
        """
        if (twin := self._slot.twin("reset", key)) is not None:
            joined: Observation = await twin.joined(caller.is_gone)
            return joined
        episode = self.episode
        if key is not None and key == episode.reset_key and episode.first_observation is not None:
            return await _answered_again(episode, episode.first_observation, key, caller)
        if self.is_draining:
            raise fault_error(FaultReason.ENV_DRAINING, operation="reset")
        if (running := self._slot.operation) is not None and (self._is_repairing or await running.is_abandoned()):
            await asyncio.wait([running.task], timeout=self.settings.reset_timeout_s)
        deadline_s = self.settings.reset_timeout_s + NET_MARGIN_S
        work = self._reset(task_config, key, caller)
        return await self._slot.run("reset", key, work, deadline_s, caller.is_gone)

    async def step(
        self, prediction: str, key: str | None = None, number: int | None = None, caller: Caller = ANYBODY
    ) -> Observation:
        """Carry out what `prediction` asks for, and show the screen after it.

        A repeat, told by `key` or `number`, is answered from record. A fault of ours is in the observation.

        Raises:
            FaultError: A ``client`` fault: busy, no episode, episode over, a key or number that does not fit.
        """
        key = call_key(key, number)
        if (twin := self._slot.twin("step", key)) is not None:
            joined: Observation = await twin.joined(caller.is_gone)
            return joined
        episode = self.episode
        if episode.phase is not Phase.FAULTED and not self._is_repairing:
            self._slot.refuse_if_busy("step")
        if (recorded := episode.recorded(prediction, key, number)) is not None:
            return await _answered_again(episode, recorded, key, caller)
        if episode.phase is Phase.FAULTED:
            return Observation(None, True, 0.0, episode.fault)
        if episode.phase is not Phase.RUNNING:
            reason = FaultReason.NO_EPISODE if episode.phase is Phase.IDLE else FaultReason.EPISODE_OVER
            raise fault_error(reason, operation="step")
        work = self._answered(episode, self.runner.step(episode, prediction, key), key, caller)
        return await self._slot.run("step", key, work, self.settings.step_timeout_s + NET_MARGIN_S, caller.is_gone)

    def acknowledge(self, key: str) -> bool:
        """Note that the reply to the reset or step of `key` arrived. Return whether that was the last one."""
        return self.episode.delivery.acknowledge(key)

    async def evaluate(self, is_gone: IsGone = never_gone, *, is_unseen: bool = False) -> float:
        """Return the score of the episode, the same one for every call. Waits for a step, joins an evaluate.

        Waits a little for the acknowledgement of the reply before it, where one is due. `is_unseen` says that the
        router knows nothing of the episode: a reset may have been lost that nobody heard of.

        Raises:
            FaultError: No score could be computed, or there is no episode.
        """
        episode = self.episode
        if episode.refused_reset is not None:
            raise FaultError(episode.refused_reset)
        instruction = episode.task.instruction[:80] if episode.task else "N/A"
        logger.info("POST /env/evaluate received (instruction=%r, step_counter=%d)", instruction, episode.actions_done)
        if is_unseen and episode.phase is not Phase.IDLE:
            raise fault_error(
                FaultReason.REPLY_LOST,
                "the router has started since the last reset or step: nobody knows whether a reset was lost meanwhile",
                operation="evaluate",
            )
        if (joined := await self._joined_evaluate(episode, is_gone)) is not None:
            return joined
        if episode.refused_reset is not None:
            raise FaultError(episode.refused_reset)
        if episode.score is not None:
            return episode.score
        if episode is not self.episode or episode.phase in {Phase.IDLE, Phase.RESETTING}:
            logger.info("Evaluation skipped: env not fully started (no setup_controller); there is no episode.")
            raise fault_error(FaultReason.NO_EPISODE, operation="evaluate")
        if episode.fault is not None and not self._can_evaluate_again(episode):
            logger.info("Evaluation skipped: env has no setup_controller (reset failed). %s", episode.fault.message)
            raise FaultError(episode.fault)
        if not episode.delivery.is_made:
            raise fault_error(FaultReason.REPLY_LOST, operation="evaluate")
        work = self.runner.evaluate(episode)
        return await self._slot.run("evaluate", None, work, self.settings.evaluate_timeout_s + NET_MARGIN_S, is_gone)

    async def _joined_evaluate(self, episode: Episode, is_gone: IsGone) -> float | None:
        """Wait until an evaluate of `episode` may begin; return the score of one that runs already."""
        is_awaited = False
        try:
            async with asyncio.timeout(self.settings.evaluate_timeout_s):
                while True:  # each wait may have let another call in
                    running = self._slot.operation
                    if running is not None and running.name == "evaluate":
                        joined: float = await running.joined(is_gone)
                        return joined
                    if running is not None and running.name == "step":
                        await asyncio.wait([running.task])
                    elif episode.delivery.is_pending and not is_awaited:
                        is_awaited = True
                        await episode.delivery.settled(ACK_WAIT_S)
                    else:
                        return None
        except TimeoutError as error:
            raise fault_error(FaultReason.OPERATION_TIMEOUT, operation="evaluate") from error

    def refuse_scores(self, fault: Fault) -> None:
        """Answer evaluates with `fault` until the next reset: the one that came last was refused with it.

        A trainer takes a refused reset for an episode that is over and asks for its score; the score of the episode
        before would be a reward for another task.
        """
        self.episode.refused_reset = fault

    def drain(self) -> EnvState:
        """Take no new episode from now on.

        Raises:
            FaultError: ``client/busy`` while an episode is under way; nothing changes then.
        """
        if self._slot.operation is not None or self.episode.phase in ACTIVE_PHASES:
            raise fault_error(FaultReason.BUSY, f"an episode is {self.episode.phase}: drain when it is over")
        self.is_draining = True
        return self.state()

    def see_epoch(self, epoch: int) -> None:
        """Refuse a caller that resolved this env_idx before its last move.

        Raises:
            FaultError: ``client/stale_epoch``.
        """
        if epoch < self._epoch:
            raise fault_error(FaultReason.STALE_EPOCH, f"epoch {epoch} is over; {self._epoch} was seen")
        self._epoch = epoch

    def see_uid(self, uid: str | None) -> None:
        """Refuse a caller that means another env server: an address is given again when a pod is gone.

        None means whoever is here; a server that was given no uid is everybody's.

        Raises:
            FaultError: ``client/wrong_server``.
        """
        own = self.settings.uid
        if uid is not None and own and uid != own:
            raise fault_error(FaultReason.WRONG_SERVER, f"this is {own}")

    @property
    def facts(self) -> DesktopFacts:
        """Return what the desktop is and can."""
        return self.runner.desktop.facts

    @property
    def _is_repairing(self) -> bool:
        """Say whether the operation under way is ours, between episodes: no rival of a caller."""
        return self._slot.operation is not None and self._slot.operation.name == "repair"

    @property
    def is_ready(self) -> bool:
        """Say whether a reset would be taken and find a desktop."""
        return self._started.is_set() and not self.is_draining and self.runner.desktop.state is not DesktopState.FAILED

    @property
    def is_initialized(self) -> bool:
        """Say whether the desktop has come up once."""
        return self._started.is_set()

    def state(self) -> EnvState:
        """Return what ``/state`` shows."""
        episode, facts = self.episode, self.facts
        return EnvState(
            phase=episode.phase,
            since=episode.since,
            episode_id=episode.id if episode.task else None,
            task_id=episode.task.id if episode.task else None,
            step=episode.actions_done,
            predictions=episode.predictions,
            is_draining=self.is_draining,
            desktop=DesktopStatus(
                provider=facts.provider, state=self.runner.desktop.state, facts=dataclasses.asdict(facts)
            ),
            fault=episode.fault,
        )

    async def _reset(self, task_config: dict[str, JsonValue], key: str | None, caller: Caller) -> Observation:
        task = parse_task(task_config)
        await self._started.wait()
        await self.runner.check(task)
        if self.episode.phase in {Phase.RUNNING, Phase.DONE}:
            self.metrics.episodes.labels("abandoned").inc()
        episode = Episode(task=task, reset_key=key)
        episode.move(Phase.RESETTING)
        self.episode = episode
        logger.info(EPISODE_BEGINS, episode.id, "_".join(task.id.split()))
        return await self._answered(episode, self.runner.reset(episode), key, caller)

    async def _answered(
        self, episode: Episode, work: Coroutine[Any, Any, Observation], key: str | None, caller: Caller
    ) -> Observation:
        """Do `work` of `episode` as the operation under way, and note whether anybody is there for its reply."""
        episode.delivery.begin()
        observation = await work
        if await self._slot.is_abandoned():
            logger.warning("Episode %s: nobody waits for the reply any more", episode.id)
        else:
            episode.delivery.send(key if caller.acknowledges else None)
        return observation

    def _can_evaluate_again(self, episode: Episode) -> bool:
        """Say whether a failed evaluate may be tried again: it changed nothing, and its very desktop still lives."""
        fault, task = episode.fault, episode.task
        return (
            fault is not None
            and task is not None
            and fault.operation == "evaluate"
            and fault.retryable
            and not task.evaluator.postconfig
            and episode.desktop_number == self.runner.desktop_number
            and self.runner.is_up
            and self._slot.operation is None
        )


def call_key(key: str | None, number: int | None) -> str | None:
    """Return what a call is known by: the key that came with it, else the number of the step."""
    return key or (f"step-{number}" if number is not None else None)


async def _answered_again(episode: Episode, observation: Observation, key: str | None, caller: Caller) -> Observation:
    """Answer a call of `episode` from record."""
    if observation is episode.last_observation and not await caller.is_gone():
        episode.delivery.send(key if caller.acknowledges else None)
    return observation
