"""Desktop and task worker of an env server: started, brought to a task, looked at, stopped.

What becomes of an episode is in `runner`; nothing here knows of one.
"""

import asyncio
import logging
import time

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_contract.names import BOOTED_PROVIDERS
from osworld_contract.task import Task
from osworld_envpod.desktops.base import STOP_DEADLINE_S, Desktop, DesktopState, GuestAddresses, TaskState
from osworld_envpod.guest import GuestClient
from osworld_envpod.ledger import Ledger
from osworld_envpod.metrics import EnvMetrics
from osworld_envpod.osworld_guest import guest_of
from osworld_envpod.settings import EnvServerSettings
from osworld_envpod.slot import IsGone
from osworld_envpod.tasks.snapshot_key import snapshot_key, why_never_frozen
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


class Stage:
    """Owns desktop and task worker. `start` first; `stop` leaves nothing behind."""

    def __init__(self, settings: EnvServerSettings, desktop: Desktop, worker: TaskWorker, metrics: EnvMetrics) -> None:
        self.settings = settings
        self.desktop = desktop
        self.last_frame: bytes | None = None
        self._last_windows: str | None = None
        self.is_pristine = False
        """The desktop is clean and nobody has touched it since."""
        self.desktop_number = 0
        """Counts the clean desktops there were: an episode's desktop is gone when the number has changed."""
        self._worker = worker
        self.ledger = Ledger(metrics, lambda: desktop.lost_to)
        self._metrics = metrics
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
        self._guest = guest_of(self.desktop.addresses)
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

    async def clean_desktop(self, deadline_s: float) -> None:
        """Bring the desktop to its pristine state, whatever state it is in.

        Raises:
            FaultError: It could not be had; the desktop is FAILED.
        """
        await self._close_guest()
        self.is_pristine = False
        self.desktop_number += 1
        await self.desktop.revert(deadline_s)
        self._guest = guest_of(self.desktop.addresses)
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

    async def _prepared(self, task: Task, deadline_s: float, is_gone: IsGone) -> bytes:
        """Return the first screenshot of `task`, set up on a clean desktop. Tries again while a retry can help."""
        end = time.monotonic() + deadline_s
        for attempt in range(1, RESET_ATTEMPTS + 1):
            try:
                return await self._prepared_once(task, end - time.monotonic(), is_gone)
            except FaultError as error:
                is_last = attempt == RESET_ATTEMPTS or time.monotonic() + RETRY_MIN_S > end
                if is_last or not error.fault.retryable:
                    raise
                logger.warning("Env reset exception: %s (attempt %d of %d)", error, attempt, RESET_ATTEMPTS)
        raise AssertionError("the last attempt returned or raised")

    async def _prepared_once(self, task: Task, deadline_s: float, is_gone: IsGone) -> bytes:
        end = time.monotonic() + deadline_s
        if not await self._is_set_up(task, deadline_s):
            if not (self.is_pristine and self.desktop.state is DesktopState.READY):
                with self.ledger.stage("fork"):
                    await self.clean_desktop(end - time.monotonic())
                if self.settings.provider in BOOTED_PROVIDERS and await is_gone():
                    # A boot can last longer than its caller waits, and the next one would wait for another.
                    raise fault_error(FaultReason.REPLY_LOST, "nobody waits any more; the desktop is left for the next")
            self.is_pristine = False
            with self.ledger.stage("setup"):
                await self._worker.setup(task, self._addresses(), end - time.monotonic())
        assert self._guest is not None
        with self.ledger.stage("screenshot"):
            try:
                self.last_frame, self._last_windows = await self._guest.look(SCREEN_DEADLINE_S)
            except FaultError:
                logger.info("Reset: screenshot is None (VM/container not ready...). Returning obs_messages=None.")
                raise
        await self.rest()
        return self.last_frame

    async def _is_set_up(self, task: Task, deadline_s: float) -> bool:
        """Bring the desktop to where `task` is set up by a snapshot, where there can be one, and say whether it is."""
        if not self.settings.task_snapshots or why_never_frozen(task):
            return False
        began, setup_s = time.monotonic(), 0.0

        async def setup(addresses: GuestAddresses, deadline_s: float) -> str:
            nonlocal setup_s
            with self.ledger.stage("setup"):
                report = await self._worker.setup(task, addresses, deadline_s)
            setup_s = report.seconds
            return "its setup keeps files for the evaluation" if report.keeps_files else ""

        state = None
        try:
            state = await self.desktop.revert_to_task(snapshot_key(task, self.settings.task_mirror), setup, deadline_s)
        finally:
            if state is not TaskState.NONE:
                await self._close_guest()
                self.is_pristine = False
                self.desktop_number += 1
        if state is TaskState.NONE:
            return False
        self._guest = guest_of(self.desktop.addresses)
        is_forked = state is TaskState.FORKED
        if is_forked:
            await self._worker.skip_setup()
        self._metrics.forks.labels("task" if is_forked else "template").inc()
        seconds = time.monotonic() - began - setup_s
        self._metrics.reset_stage_seconds.labels("fork" if is_forked else "snapshot").observe(seconds)
        return True

    def _addresses(self) -> GuestAddresses:
        """Return the desktop's addresses; it may end at any time.

        Raises:
            FaultError: ``desktop_lost``.
        """
        if not self.is_up:
            raise fault_error(FaultReason.DESKTOP_LOST)
        return self.desktop.addresses

    @property
    def pauses(self) -> bool:
        """Say whether the desktop stands still between steps."""
        return self.settings.pause_between_steps and self.desktop.facts.can_pause

    async def rest(self) -> None:
        """Let the desktop stand still until the next step, where it can."""
        if self.pauses and self.desktop.state is DesktopState.READY:
            await self.desktop.pause(self.settings.step_timeout_s)

    async def look_again(self) -> tuple[bytes, str | None]:
        """Return screen and windows of the running desktop as they are now.

        Raises:
            FaultError: The guest did not show them.
        """
        assert self._guest is not None
        await self.desktop.resume(SCREEN_DEADLINE_S)
        return await self._guest.look(SCREEN_DEADLINE_S)

    async def _close_guest(self) -> None:
        if self._guest is not None:
            await self._guest.close()
            self._guest = None
