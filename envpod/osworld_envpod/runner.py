"""Carries an episode out. With `stage`, the only code of the env server that touches desktop, guest and task worker.

Who may do what and when is decided in `server`; nothing here knows of clients.
"""

import asyncio
import dataclasses
import logging
import time
from typing import Final

from osworld_contract.faults import Fault, FaultError, FaultReason, fault_error
from osworld_contract.record import RecordEnd
from osworld_contract.replay import Mark
from osworld_contract.task import Task
from osworld_contract.wire import Phase
from osworld_envpod.desktops.base import Desktop, GuestAddresses
from osworld_envpod.episode import Episode, Observation
from osworld_envpod.metrics import EnvMetrics
from osworld_envpod.recorder import Recorder
from osworld_envpod.rollout import Rollout
from osworld_envpod.settings import EnvServerSettings
from osworld_envpod.slot import IsGone, never_gone
from osworld_envpod.stage import Stage
from osworld_envpod.tasks.worker import TaskWorker

CLOCK_DEADLINE_S: Final = 30.0
"""For a guest's clock to be read and stepped. A guess with room: a second or two under emulation."""

logger = logging.getLogger(__name__)


class Runner(Stage):
    """A stage, and what is played on it."""

    def __init__(self, settings: EnvServerSettings, desktop: Desktop, worker: TaskWorker, metrics: EnvMetrics) -> None:
        super().__init__(settings, desktop, worker, metrics)
        self._recorder = Recorder(settings)

    async def stop(self) -> None:
        """See `Stage`."""
        await super().stop()
        await asyncio.to_thread(self._recorder.close)

    async def check(self, task: Task) -> None:
        """Raise ``client/bad_task`` where OSWorld does not know what the task names."""
        await self._worker.check(task)

    async def reset(self, episode: Episode, deadline_s: float, is_gone: IsGone = never_gone) -> Observation:
        """Set `episode`'s task up on a clean desktop, and show the screen. `is_gone`: nobody waits for it any more.

        Raises:
            FaultError: All attempts failed; the episode is faulted.
        """
        assert episode.task is not None
        began, screenshot = time.monotonic(), None
        try:
            with self.ledger.faults_of(episode, "reset"):
                screenshot = await self._prepared(episode.task, deadline_s, is_gone)
                episode.desktop_number = self.desktop_number
                episode.history.begin(episode.task.instruction, screenshot)
                episode.move(Phase.RUNNING)
        finally:
            self._recorder.reset(episode, time.monotonic() - began, screenshot)
        observation = Observation(len(episode.history), False, 0.0, mark=self._mark(episode, 0))
        episode.begin(observation, time.monotonic() - began)
        logger.info(
            "Reset OK: VM screenshot obtained (%d bytes), returning obs_messages with image. Instruction: %s...",
            len(screenshot),
            episode.task.instruction[:60],
        )
        return observation

    async def step(self, episode: Episode, prediction: str, key: str | None) -> Observation:
        """Carry out `prediction`. A fault ends the episode and is in the observation; it is not raised."""
        began = time.monotonic()
        try:
            with self.ledger.faults_of(episode, "step"):
                async with asyncio.timeout(self.settings.step_timeout_s):
                    observation = await self._rolled_out(episode, prediction)
        except FaultError:
            observation = Observation(None, True, 0.0, episode.fault)
        episode.record(prediction, key, observation, time.monotonic() - began)
        frame = None if observation.end is None else self.last_frame
        self._recorder.step(episode, prediction, observation, time.monotonic() - began, frame)
        return observation

    def note_replay(self, episode: Episode, duration_s: float) -> None:
        """Have it recorded that `episode` was played again in `duration_s`, or what kept it from that."""
        self._recorder.replay(episode, duration_s)

    def note_end(self, end: RecordEnd) -> None:
        """Have it recorded how an episode before the one that has begun ended for its client."""
        self._recorder.end(end)

    def note_loss(self, episode: Episode, idle_s: float) -> None:
        """End `episode`, whose desktop is found to be gone `idle_s` after its last call."""
        self.ledger.note_fault(episode, fault_error(FaultReason.DESKTOP_LOST).fault, None)
        self._recorder.between(episode, idle_s)

    def note_unscored(self, episode: Episode, fault: Fault, duration_s: float) -> None:
        """Note that an evaluate of `episode` got `fault`, which does not end it; see `Ledger.note_unscored`."""
        if self.ledger.note_unscored(episode, fault):
            self._recorder.unanswered(episode, fault, duration_s)

    async def evaluate(self, episode: Episode) -> float:
        """Return the score that OSWorld's evaluator gives.

        Raises:
            FaultError: It gave none; the episode is faulted.
        """
        assert episode.task is not None
        episode.move(Phase.EVALUATING)
        began, deadline_s = time.monotonic(), self.settings.evaluate_timeout_s
        try:
            with self.ledger.faults_of(episode, "evaluate"):
                addresses = await self._in_time(deadline_s)
                left_s = began + deadline_s - time.monotonic()
                score = await self._worker.evaluate(episode.task, addresses, episode.action_history, left_s)
                if not self.is_up:
                    # A dead screen under a living guest agent: the evaluator saw answers, but not of this desktop.
                    raise fault_error(FaultReason.DESKTOP_LOST, "the desktop ended while its episode was evaluated")
            episode.score, episode.fault = score, None
            episode.move(Phase.EVALUATED)
        finally:
            self._recorder.evaluate(episode, time.monotonic() - began)
        self.ledger.count(episode, "scored")
        logger.info(
            "Evaluation completed: score=%s, instruction=%s, step_counter=%d",
            score,
            episode.task.instruction,
            episode.actions_done,
        )
        return score

    async def _in_time(self, deadline_s: float) -> GuestAddresses:
        """Let the desktop run, with the time of now: an evaluator may look at a date. Return its addresses."""
        await self.desktop.resume(deadline_s)
        addresses = self._addresses()
        await self.desktop.correct_clock(min(deadline_s, CLOCK_DEADLINE_S))
        return addresses

    async def _rolled_out(self, episode: Episode, prediction: str) -> Observation:
        assert self._guest is not None
        await self.desktop.resume(self.settings.step_timeout_s)
        rollout = Rollout(self.settings, self._guest, episode)
        observation = await rollout.step(prediction)
        if not self.is_up:  # a step that ends the episode needs no screen, and would not find out
            raise fault_error(FaultReason.DESKTOP_LOST, "the desktop ended in the step")
        self.last_frame = rollout.screenshot or self.last_frame
        self._last_windows = rollout.windows
        await self.rest()
        if observation.is_done:
            episode.move(Phase.DONE)
        return dataclasses.replace(observation, mark=self._mark(episode, episode.predictions + 1))

    def _mark(self, episode: Episode, number: int) -> Mark | None:
        """Return what a reply says of the desktop, None where the episode must not be played again on another one."""
        assert episode.task is not None
        if self._last_windows is None or not self.may_replay(episode.task):
            return None
        can_evaluate_again = not episode.task.evaluator.postconfig
        return Mark(episode.id, number, can_evaluate_again, self._last_windows, stands_still=self.pauses)

    def may_replay(self, task: Task) -> bool:
        """Say whether nothing of an episode of `task` can have reached beyond its desktop."""
        return self.desktop.facts.network == "none" or task.offline

    def may_evaluate_again(self, episode: Episode) -> bool:
        """Say whether a failed evaluate may be tried again: it changed nothing, and its very desktop still lives."""
        fault, task = episode.fault, episode.task
        return (
            fault is not None
            and task is not None
            and fault.operation == "evaluate"
            and fault.retryable
            and not task.evaluator.postconfig
            and episode.desktop_number == self.desktop_number
            and self.is_up
        )
