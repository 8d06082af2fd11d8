"""The task worker as the env server sees it: setup and evaluate with a deadline, a memory limit, and named faults.

States: stopped → starting → idle ⇄ working. An operation that cannot be ended in order ends the process, and the next
one is started at once, so that its import runs while the desktop is being reset.
"""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_contract.task import Task
from osworld_envpod.desktops.base import GuestAddresses
from osworld_envpod.tasks.catalog import Catalog
from osworld_envpod.tasks.environment import await_environment
from osworld_envpod.tasks.folders import WORK, WorkerFolders
from osworld_envpod.tasks.launch import folder_inside
from osworld_envpod.tasks.memory import tree_pss_mib
from osworld_envpod.tasks.outcome import Outcome, describe, raise_fault
from osworld_envpod.tasks.process import END_DEADLINE_S, WorkerProcess
from osworld_envpod.tasks.settings import WorkerSettings
from osworld_envpod.tasks.walls import log_walls

log = logging.getLogger(__name__)

ABORT_DEADLINE_S = 1.0
"""For the worker to end its runner when asked; a SIGKILL and a fork's memory take milliseconds."""
ABORT_LEAST_S = 0.1
"""Even where the caller's time is up, as after a cancellation: ending the whole process would cost its import."""
GRACE_S = 3.0
"""For the runner to unwind after it named a trouble; what is left then is code that swallows every error."""
MARGIN_S = 1.5
"""Kept of an operation's deadline to end what runs, at most a tenth of the deadline."""
START_DEADLINE_S = 60.0
"""A guess with room: the import takes 2 s, right after an install 7 (measured on two cores)."""


@dataclass(frozen=True)
class SetupReport:
    """What a setup did."""

    seconds: float
    steps: int
    keeps_files: bool
    """Whether an evaluation may look at files that it left in the worker: then its desktop alone is not its outcome."""


class TaskWorker:
    """One worker, for one desktop. An async context manager: entering starts it, leaving stops it.

    One operation at a time. Every method takes the seconds it may use and raises `FaultError` within them; after a
    fault the worker is usable again.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._process: WorkerProcess | None = None
        self._catalog: Catalog | None = None
        is_other_user = settings.sandbox and os.geteuid() == 0
        self._folders = WorkerFolders(settings.cache_dir, settings.host_uid if is_other_user else None)
        self._lock = asyncio.Lock()

    async def start(self, deadline_s: float) -> None:
        """Start the process and wait until desktop-env is imported.

        `deadline_s` counts from where the environment is there: another process may be making it, for minutes.

        Raises:
            FaultError: ``worker_start_failed`` or ``disk_full``; no process is left.
        """
        async with self._lock:
            await await_environment(self._settings.python)
            await asyncio.to_thread(self._folders.prepare)
            await self._ready(time.monotonic() + deadline_s)

    async def check(self, task: Task, deadline_s: float = START_DEADLINE_S) -> None:
        """Check that desktop-env knows all that `task` names, without running anything of it.

        Raises:
            FaultError: ``bad_task`` that names the field; ``worker_start_failed``.
        """
        async with self._lock:
            await self._ready(time.monotonic() + deadline_s)
            assert self._catalog is not None
            self._catalog.check(task)

    async def setup(self, task: Task, addresses: GuestAddresses, deadline_s: float) -> SetupReport:
        """Run the task's setup steps on the desktop. Begins an episode: the files of the last one are removed.

        Raises:
            FaultError: ``bad_task`` before anything is run; ``setup_failed``, ``setup_timeout``, ``download_failed``,
                ``setup_module_missing``, ``guest_unreachable``, ``guest_timeout``, ``worker_*``, ``disk_full``. The
                desktop may be half set up then.
        """
        began_s = time.monotonic()
        async with self._lock:
            ends_s = began_s + deadline_s
            await self._ready(ends_s)
            assert self._catalog is not None
            self._catalog.check(task)
            folder = await asyncio.to_thread(self._folders.begin_setup)
            steps = await self._operate("setup", task, addresses, folder, ends_s)
            await asyncio.to_thread(self._folders.keep_setup, folder)
            keeps_files = await asyncio.to_thread(self._folders.keeps_files)
        return SetupReport(time.monotonic() - began_s, int(steps), keeps_files)

    async def skip_setup(self) -> None:
        """Begin an episode on a desktop that is set up already, by steps that kept no files.

        Raises:
            FaultError: ``disk_full``, ``worker_start_failed``.
        """
        async with self._lock:
            await asyncio.to_thread(self._folders.forget_setup)

    async def evaluate(
        self, task: Task, addresses: GuestAddresses, action_history: Sequence[Any], deadline_s: float
    ) -> float:
        """Return the score that OSWorld's evaluator computes. `action_history` is that of ``DesktopEnv.step``.

        Can be called again for the same episode, and for one whose setup another worker has run.

        Raises:
            FaultError: ``bad_task``, ``evaluate_failed``, ``evaluate_timeout``, ``evaluator_module_missing``,
                ``download_failed``, ``guest_unreachable``, ``guest_timeout``, ``worker_*``, ``disk_full``.
        """
        ends_s = time.monotonic() + deadline_s
        async with self._lock:
            await self._ready(ends_s)
            assert self._catalog is not None
            self._catalog.check(task)
            folder = await asyncio.to_thread(self._folders.begin_evaluation)
            score = await self._operate("evaluate", task, addresses, folder, ends_s, list(action_history))
        return float(score)

    async def stop(self, deadline_s: float) -> None:
        """End the process and remove the worker's folder; downloads are kept. Can run twice."""
        process, self._process = self._process, None
        if process is not None:
            await process.end(deadline_s)
        await asyncio.to_thread(self._folders.remove)

    @property
    def pid(self) -> int | None:
        """Return the worker's process id, or None while there is none."""
        return self._process.pid if self._process is not None else None

    async def __aenter__(self) -> Self:
        await self.start(START_DEADLINE_S)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(END_DEADLINE_S)

    async def _ready(self, ends_s: float) -> None:
        """Have a process that has imported desktop-env, a new one if the last has ended."""
        if self._process is not None and not self._process.is_whole:
            log.warning("task worker %d has ended with %s", self._process.pid, self._process.exit_code)
            await self._end()
        if self._process is None:
            self._process = await WorkerProcess.spawn(self._settings)
            self._catalog = None
        if self._catalog is None:
            try:
                self._catalog = await self._imported(self._process, ends_s - time.monotonic())
            except BaseException:
                await self._end()
                raise

    async def _imported(self, process: WorkerProcess, deadline_s: float) -> Catalog:
        try:
            message = await asyncio.wait_for(process.receive(), max(deadline_s - _margin_s(deadline_s), 0))
        except TimeoutError as error:
            raise self._start_failed(process, f"did not start within {deadline_s:.0f} s") from error
        if message is None or message["event"] != "ready":
            raise self._start_failed(process, "could not import desktop-env", **describe(message))
        log.info(
            "task worker %d is ready: import took %.1f s, stand-ins for %s",
            process.pid, message["import_s"], ", ".join(message["absent"]) or "nothing",
        )  # fmt: skip
        if not self._settings.sandbox:
            log_walls(message["walls"])
        return Catalog.model_validate(message["catalog"])

    def _start_failed(self, process: WorkerProcess, what: str, **evidence: Any) -> FaultError:
        return fault_error(
            FaultReason.WORKER_START_FAILED, f"the task worker {what}",
            exit_code=process.exit_code, output=list(process.tail), **evidence,
        )  # fmt: skip

    async def _operate(
        self, operation: str, task: Task, addresses: GuestAddresses, folder: str, ends_s: float,
        actions: Sequence[Any] = (),
    ) -> float:  # fmt: skip
        """Have the process carry out an operation; leaves it idle, or ended and a new one starting."""
        assert self._process is not None
        process = self._process
        left_s = ends_s - time.monotonic()
        work_s = max(left_s - _margin_s(left_s), 0)
        outcome = Outcome(operation)
        request = self._request(operation, task, addresses, folder) | {"deadline_s": work_s, "actions": list(actions)}
        process.forget_output()
        try:
            await process.send(request)
            await self._follow(process, outcome, time.monotonic() + work_s)
        finally:
            if not outcome.is_ended:
                await self._restart(process, ends_s)
        if outcome.fault is None and outcome.value is not None:
            return outcome.value
        raise_fault(outcome, process.exit_code, process.tail, self._settings.secrets)

    def _request(self, operation: str, task: Task, addresses: GuestAddresses, folder: str) -> dict[str, Any]:
        settings = self._settings
        ports = asdict(addresses)
        del ports["server_socket"], ports["has_agent"]
        return {
            "op": operation,
            "task": task.as_config(),
            "addresses": ports,
            "folder": str(folder_inside(settings) / WORK / folder),
            "screen": settings.screen_px,
            "client_password": settings.client_password,
        }

    async def _follow(self, process: WorkerProcess, outcome: Outcome, ends_s: float) -> None:
        """Take messages into `outcome` until the operation has ended, its time is up, or its memory is too much."""
        receiving = asyncio.ensure_future(process.receive())
        try:
            while not outcome.is_ended:
                left_s = ends_s - time.monotonic()
                if left_s <= 0:
                    outcome.time_out()
                    return
                await asyncio.wait({receiving}, timeout=min(left_s, self._settings.watch_interval_s))
                if receiving.done():
                    message = receiving.result()
                    if message is None:
                        outcome.lose()
                        return
                    outcome.take(message)
                    if outcome.is_troubled:
                        ends_s = min(ends_s, time.monotonic() + GRACE_S)
                    receiving = asyncio.ensure_future(process.receive())
                    continue
                used_mib = await asyncio.to_thread(tree_pss_mib, process.pid)
                if used_mib > self._settings.memory_limit_mib:
                    outcome.overflow(used_mib, self._settings.memory_limit_mib)
                    return
        finally:
            receiving.cancel()
            # Waited for, as the stream takes one reader at a time.
            await asyncio.wait({receiving})

    async def _restart(self, process: WorkerProcess, ends_s: float) -> None:
        """Ask the worker to end what it runs; where it does not, end it and start the next."""
        half_s = (ends_s - time.monotonic()) / 2
        try:
            async with asyncio.timeout(max(min(ABORT_DEADLINE_S, half_s), ABORT_LEAST_S)):
                await process.send({"op": "abort"})
                while (message := await process.receive()) is not None:
                    if message["event"] == "ended":
                        log.info("task worker %d has ended its operation when asked", process.pid)
                        return
        except TimeoutError:
            log.warning("task worker %d did not end its operation when asked", process.pid)
        if self._process is not process:  # `stop` has come in between
            return
        await self._end()
        try:
            self._process = await WorkerProcess.spawn(self._settings)
        except FaultError as error:
            log.warning("the next operation has to start the task worker: %s", error)

    async def _end(self) -> None:
        process, self._catalog = self._process, None
        if process is not None:
            process.kill()
            # Kept until it is gone: what it writes to must not be touched before.
            await process.end(END_DEADLINE_S)
            if self._process is process:
                self._process = None


def _margin_s(deadline_s: float) -> float:
    return min(MARGIN_S, deadline_s / 10)
