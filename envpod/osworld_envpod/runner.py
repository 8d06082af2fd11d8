"""Carries an episode out: the only code of the env server that touches desktop, guest agent and task worker.

Who may do what and when is decided in `server`; nothing here knows of clients.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

from osworld_contract.faults import Fault, FaultError, FaultReason, fault_error
from osworld_contract.task import Task
from osworld_contract.wire import Phase
from osworld_envpod.desktops.base import STOP_DEADLINE_S, Desktop, DesktopState
from osworld_envpod.episode import Episode, Observation
from osworld_envpod.guest import GuestClient
from osworld_envpod.metrics import EnvMetrics
from osworld_envpod.recorder import Recorder
from osworld_envpod.rollout import Rollout
from osworld_envpod.settings import EnvServerSettings
from osworld_envpod.tasks.worker import TaskWorker

logger = logging.getLogger(__name__)

RESET_ATTEMPTS = 3
"""A reset is tried again on a fresh desktop, as long as its deadline lasts. Three is a guess; the original tried 8."""

RETRY_MIN_S = 5.0
"""With less time left than this no further attempt of a reset is begun: it would only hide why the last one failed."""

WORKER_START_DEADLINE_S = 120.0
"""Importing desktop-env takes 3 s on an idle machine; many env servers may start at once."""

SCREEN_DEADLINE_S = 15.0
"""desktop-env gives a screenshot 10 s; a guest under load may need a little more."""


class Runner:
    """Owns desktop and task worker. `start` first; `stop` leaves nothing behind."""

    def __init__(self, settings: EnvServerSettings, desktop: Desktop, worker: TaskWorker, metrics: EnvMetrics) -> None:
        self.settings = settings
        self.desktop = desktop
        self.last_frame: bytes | None = None
        self.is_pristine = False
        """The desktop is clean and nobody has touched it since."""
        self.desktop_number = 0
        """Counts the clean desktops there were: an episode's desktop is gone when the number has changed."""
        self._worker = worker
        self._metrics = metrics
        self._recorder = Recorder(settings)
        self._guest: GuestClient | None = None

    @property
    def is_up(self) -> bool:
        """Say whether the desktop runs."""
        return self.desktop.state in {DesktopState.READY, DesktopState.PAUSED}

    async def start(self) -> None:
        """Start desktop and worker side by side, and take a first screenshot.

        Raises:
            FaultError: One of them did not come up.
        """
        deadline_s = self.desktop.start_deadline_s
        results = await asyncio.gather(
            self.desktop.start(deadline_s), self._worker.start(WORKER_START_DEADLINE_S), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        self._guest = GuestClient(self.desktop.addresses)
        self.is_pristine = True
        self.last_frame = await self._guest.screenshot(SCREEN_DEADLINE_S)

    async def stop(self) -> None:
        """Stop worker and desktop. Can run twice."""
        await self._close_guest()
        for stop in (self._worker.stop(STOP_DEADLINE_S), self.desktop.stop(STOP_DEADLINE_S)):
            try:
                await stop
            except FaultError as error:
                logger.warning("Stop: %s", error)
        await asyncio.to_thread(self._recorder.close)

    async def check(self, task: Task) -> None:
        """Raise ``client/bad_task`` where OSWorld does not know what the task names."""
        await self._worker.check(task)

    async def reset(self, episode: Episode) -> Observation:
        """Set `episode`'s task up on a clean desktop, and show the screen.

        Raises:
            FaultError: All attempts failed; the episode is faulted.
        """
        assert episode.task is not None
        began, screenshot = time.monotonic(), None
        try:
            with self._faults_of(episode, "reset"):
                screenshot = await self._prepared(episode.task)
                episode.desktop_number = self.desktop_number
                episode.history.begin(episode.task.instruction, screenshot)
                episode.move(Phase.RUNNING)
        finally:
            self._recorder.reset(episode, time.monotonic() - began, screenshot)
        episode.first_observation = Observation(len(episode.history), False, 0.0)
        logger.info(
            "Reset OK: VM screenshot obtained (%d bytes), returning obs_messages with image. Instruction: %s...",
            len(screenshot),
            episode.task.instruction[:60],
        )
        return episode.first_observation

    async def step(self, episode: Episode, prediction: str, key: str | None) -> Observation:
        """Carry out `prediction`. A fault ends the episode and is in the observation; it is not raised."""
        began = time.monotonic()
        try:
            with self._faults_of(episode, "step"):
                async with asyncio.timeout(self.settings.step_timeout_s):
                    observation = await self._rolled_out(episode, prediction)
        except FaultError:
            observation = Observation(None, True, 0.0, episode.fault)
        episode.record(prediction, key, observation)
        frame = None if observation.end is None else self.last_frame
        self._recorder.step(episode, prediction, observation, time.monotonic() - began, frame)
        return observation

    async def evaluate(self, episode: Episode) -> float:
        """Return the score that OSWorld's evaluator gives.

        Raises:
            FaultError: It gave none; the episode is faulted.
        """
        assert episode.task is not None
        episode.move(Phase.EVALUATING)
        began, deadline_s = time.monotonic(), self.settings.evaluate_timeout_s
        try:
            with self._faults_of(episode, "evaluate"):
                await self.desktop.resume(deadline_s)
                score = await self._worker.evaluate(
                    episode.task, self.desktop.addresses, episode.action_history, deadline_s
                )
                if not self.is_up:
                    # A dead screen under a living guest agent: the evaluator saw answers, but not of this desktop.
                    raise fault_error(FaultReason.DESKTOP_LOST, "the desktop ended while its episode was evaluated")
            episode.score, episode.fault = score, None
            episode.move(Phase.EVALUATED)
        finally:
            self._recorder.evaluate(episode, time.monotonic() - began)
        self._count(episode, "scored")
        self._metrics.episode_steps.observe(episode.actions_done)
        logger.info(
            "Evaluation completed: score=%s, instruction=%s, step_counter=%d",
            score,
            episode.task.instruction,
            episode.actions_done,
        )
        return score

    async def clean_desktop(self, deadline_s: float) -> None:
        """Bring the desktop to its pristine state, whatever state it is in.

        Raises:
            FaultError: It could not be had; the desktop is FAILED.
        """
        await self._close_guest()
        self.is_pristine = False
        self.desktop_number += 1
        await self.desktop.revert(deadline_s)
        self._guest = GuestClient(self.desktop.addresses)
        self.is_pristine = True
        self._metrics.forks.labels("template" if self.desktop.facts.can_fork else "boot").inc()

    async def screen(self) -> bytes:
        """Return the screen as it is now, or the last frame where it cannot be had.

        Raises:
            FaultError: There is no frame at all yet.
        """
        if self._guest is not None and self.desktop.state is DesktopState.READY:
            try:
                return await self._guest.screenshot(SCREEN_DEADLINE_S)
            except FaultError as error:
                logger.info("Screen: %s; the last frame is shown", error)
        if self.last_frame is None:
            raise fault_error(FaultReason.SCREENSHOT_MISSING)
        return self.last_frame

    def note_fault(self, episode: Episode, fault: Fault, operation: str | None) -> None:
        """End `episode` with `fault`: counted, logged once, kept for ``/state``."""
        fault = fault if fault.operation or operation is None else fault.model_copy(update={"operation": operation})
        episode.fail(fault)
        self._metrics.faults.labels(fault.kind, fault.reason, operation or "none").inc()
        self._count(episode, "fault")
        prefix = {"evaluate": "Evaluation error", "reset": "Env reset exception"}.get(operation or "", "Fault")
        logger.error("%s: %s/%s: %s %s", prefix, fault.kind, fault.reason, fault.message, fault.evidence or "")

    def _count(self, episode: Episode, result: str) -> None:
        """Count the end of `episode`, once: an evaluate that is tried again and works is no second episode."""
        if not episode.is_counted:
            episode.is_counted = True
            self._metrics.episodes.labels(result).inc()

    async def _prepared(self, task: Task) -> bytes:
        """Return the first screenshot of `task`, set up on a clean desktop. Tries again while a retry can help."""
        end = time.monotonic() + self.settings.reset_timeout_s
        for attempt in range(1, RESET_ATTEMPTS + 1):
            try:
                return await self._prepared_once(task, end - time.monotonic())
            except FaultError as error:
                is_last = attempt == RESET_ATTEMPTS or time.monotonic() + RETRY_MIN_S > end
                if is_last or not error.fault.retryable:
                    raise
                logger.warning("Env reset exception: %s (attempt %d of %d)", error, attempt, RESET_ATTEMPTS)
        raise AssertionError("the last attempt returned or raised")

    async def _prepared_once(self, task: Task, deadline_s: float) -> bytes:
        began = time.monotonic()
        if not (self.is_pristine and self.desktop.state is DesktopState.READY):
            with self._stage("fork"):
                await self.clean_desktop(deadline_s)
        assert self._guest is not None
        self.is_pristine = False
        with self._stage("setup"):
            await self._worker.setup(task, self.desktop.addresses, deadline_s - (time.monotonic() - began))
        with self._stage("screenshot"):
            try:
                self.last_frame = await self._guest.screenshot(SCREEN_DEADLINE_S)
            except FaultError:
                logger.info("Reset: screenshot is None (VM/container not ready...). Returning obs_messages=None.")
                raise
        await self._pause()
        return self.last_frame

    async def _rolled_out(self, episode: Episode, prediction: str) -> Observation:
        assert self._guest is not None
        await self.desktop.resume(self.settings.step_timeout_s)
        rollout = Rollout(self.settings, self._guest, episode)
        observation = await rollout.step(prediction)
        self.last_frame = rollout.screenshot or self.last_frame
        await self._pause()
        if observation.is_done:
            episode.move(Phase.DONE)
        return observation

    async def _pause(self) -> None:
        if self.settings.pause_between_steps and self.desktop.facts.can_pause:
            await self.desktop.pause(self.settings.step_timeout_s)

    async def _close_guest(self) -> None:
        if self._guest is not None:
            await self._guest.close()
            self._guest = None

    @contextlib.contextmanager
    def _faults_of(self, episode: Episode, operation: str) -> Iterator[None]:
        """End `episode` with the fault of whatever goes wrong inside, a deadline and a cancellation included."""
        try:
            yield
        except FaultError as error:
            self.note_fault(episode, error.fault, operation)
            raise
        except (TimeoutError, asyncio.CancelledError) as error:
            reason = FaultReason.EVALUATE_TIMEOUT if operation == "evaluate" else FaultReason.OPERATION_TIMEOUT
            timed_out = fault_error(reason, operation=operation)
            self.note_fault(episode, timed_out.fault, operation)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise timed_out from error
        except Exception as error:
            logger.exception("A defect in %s", operation)
            broken = fault_error(FaultReason.INTERNAL, f"{type(error).__name__} in {operation}", operation=operation)
            self.note_fault(episode, broken.fault, operation)
            raise broken from error

    @contextlib.contextmanager
    def _stage(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._metrics.reset_stage_seconds.labels(stage).observe(time.monotonic() - began)
