"""The qemu desktop: a virtual machine that is forked from a template at each revert. Its states are driven here.

What an episode did to memory, disk and processes ends with its fork. One spare fork is loaded ahead and waits paused.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_envpod.desktops.base import DesktopFacts, DesktopState, GuestAddresses, Setup, TaskState
from osworld_envpod.desktops.guest_clock import correct_guest_clock
from osworld_envpod.desktops.os_faults import os_fault
from osworld_envpod.desktops.qemu.fork import Fork, template_of
from osworld_envpod.desktops.qemu.freezing import Origin
from osworld_envpod.desktops.qemu.host import qemu_version
from osworld_envpod.desktops.qemu.image import VmImage, find_image
from osworld_envpod.desktops.qemu.settings import Accelerator, QemuSettings
from osworld_envpod.desktops.qemu.snapshots import SnapshotStore
from osworld_envpod.desktops.qemu.task_forks import TaskForks
from osworld_envpod.desktops.qemu.template import Template
from osworld_envpod.desktops.qemu.vm import Vm, vm_of
from osworld_envpod.desktops.rundir import RunDir, sweep
from osworld_envpod.desktops.stateful import RUNS, StatefulDesktop

logger = logging.getLogger(__name__)


class QemuDesktop(StatefulDesktop):
    """See `Desktop`. Start it from a thread that lives as long as it does: QEMU ends with its parent thread."""

    def __init__(self, settings: QemuSettings | None = None) -> None:
        super().__init__()
        self._settings = settings or QemuSettings()
        self._vm: Vm | None = None
        self._image: VmImage | None = None
        self._template: Template | None = None
        self._run_dir: RunDir | None = None
        self._current: Fork | None = None
        self._spare: asyncio.Task[Fork] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._forks = 0
        self._lost_to: FaultReason | None = None
        self._tasks = _task_forks(self._settings)

    @property
    def lost_to(self) -> FaultReason | None:
        """Return ``disk_full`` where that ended the current fork, or the one that a move left behind."""
        if self._current is not None and self._current.machine.is_disk_full:
            return FaultReason.DISK_FULL
        return self._lost_to

    @property
    def facts(self) -> DesktopFacts:
        """Return what this desktop can do. The accelerator is known once it was started; it reads ``tcg`` before."""
        accelerator: Literal["kvm", "tcg"] = "tcg"
        if self._vm is not None and self._vm.shape.accelerator is Accelerator.KVM:
            accelerator = "kvm"
        digest = self._image.digest if self._image else None
        has_agent = self._vm is None or self._vm.guest.has_agent
        return DesktopFacts(
            "qemu", accelerator, can_pause=True, can_fork=True, root="real", image_digest=digest, network="none",
            proof="agent" if has_agent else "marks",
        )  # fmt: skip

    @property
    def start_deadline_s(self) -> float:
        """Return the seconds that a start may take."""
        image = self._settings.image
        if image is None:
            return self._settings.start_deadline_s
        boot_s = max(self._settings.start_deadline_s, self._settings.boot_deadline_s)
        return boot_s + (image.limits.total_s if image.is_elsewhere else 0.0)

    @property
    def addresses(self) -> GuestAddresses:
        """Return the guest's addresses; each fork has ports of its own."""
        if self._state not in RUNS or self._current is None:
            raise self._without("addresses")
        return self._current.addresses

    @property
    def template(self) -> Template:
        """Return the template that the next revert forks."""
        if self._template is None:
            raise self._without("template")
        return self._template

    async def start(self, deadline_s: float) -> None:
        """Find or boot the template, fork it. A start that fails leaves no process, port or file but templates."""
        self._begin_start()
        try:
            async with self._moving(deadline_s, FaultReason.DESKTOP_START_FAILED):
                await self._take_fork(deadline_s)
        except BaseException:
            await self._release()
            self._state = DesktopState.FAILED
            raise

    async def revert(self, deadline_s: float) -> None:
        """End the fork and take a fresh one."""
        self._refuse_revert()
        self._state = DesktopState.REVERTING
        async with self._moving(deadline_s, FaultReason.DESKTOP_UNCLEAN):
            await self._discard()
            await self._take_fork(deadline_s)

    async def revert_to_task(self, key: str, setup: Setup, deadline_s: float) -> TaskState:
        """See `Desktop`."""
        self._refuse_revert()
        end = time.monotonic() + deadline_s
        if self._tasks is None or self._vm is None or self._template is None or self._run_dir is None:
            return TaskState.NONE  # a revert makes the latter three
        lease = await self._tasks.lease(key, self._template, deadline_s)
        if lease is None:
            return TaskState.NONE
        origin = Origin(self._vm, self._template)
        self._state = DesktopState.REVERTING
        try:
            async with self._moving(end - time.monotonic(), FaultReason.DESKTOP_UNCLEAN):
                await self._discard()
                self._current, state = await self._tasks.fork(lease, origin, setup, self._new_folder(), end)
        finally:
            await lease.close()
        return state

    async def pause(self, deadline_s: float) -> None:
        """Stop the guest's processors. Nothing while it is paused already."""
        await self._switch("stop", DesktopState.READY, DesktopState.PAUSED, deadline_s)

    async def resume(self, deadline_s: float) -> None:
        """Let the guest's processors run. Nothing while they do."""
        await self._switch("cont", DesktopState.PAUSED, DesktopState.READY, deadline_s)

    async def correct_clock(self, deadline_s: float) -> None:
        """Step the guest's clock to ours where it is far off."""
        await correct_guest_clock(self.addresses, self._settings.password, deadline_s)

    async def stop(self, deadline_s: float) -> None:
        """End everything. Works from any state."""
        if self._state is DesktopState.STOPPED:
            return
        async with self._stopping(deadline_s):
            await self._discard()
            if spare := await self._take_spare(cancel=True):
                await spare.kill()
            await self._release()

    async def _switch(self, command: str, before: DesktopState, after: DesktopState, deadline_s: float) -> None:
        if self._state is after:
            return
        if self._state is not before or self._current is None:
            raise RuntimeError(f"a desktop that is {self._state} cannot become {after}")
        try:
            async with asyncio.timeout(deadline_s):
                await self._current.machine.execute(command)
        except TimeoutError as error:
            await self._fail()
            raise fault_error(
                FaultReason.DESKTOP_LOST, f"QEMU did not carry out {command} in {deadline_s:g} s"
            ) from error
        except FaultError:
            await self._fail()
            raise
        self._state = after

    @contextlib.asynccontextmanager
    async def _moving(self, deadline_s: float, reason: FaultReason) -> AsyncIterator[None]:
        """Bound a start or revert by `deadline_s`; end READY with a spare on its way, or FAILED with nothing."""
        began = time.monotonic()
        self._lost_to = None
        try:
            async with asyncio.timeout(deadline_s):
                yield
        except TimeoutError as error:
            await self._fail()
            raise fault_error(reason, f"the desktop was not ready in {deadline_s:g} s") from error
        except OSError as error:
            await self._fail()
            raise os_fault(error, "the machine") from error
        except BaseException:
            await self._fail()
            raise
        assert self._current is not None
        self._watch = asyncio.create_task(self._report_end(self._current), name="desktop watch")
        self._state = DesktopState.READY
        logger.info("desktop ready in %.2f s: boot %s", time.monotonic() - began, self._current.boot_id)
        if self._settings.spares and self._spare is None:
            self._spare = asyncio.create_task(self._load(), name="spare fork")

    async def _take_fork(self, deadline_s: float) -> None:
        """Make the spare, or a fresh fork, the current one: running and proven clean."""
        await self._drop_changed_template()
        await self._prepare()
        fork = await self._take_spare()
        if fork is None:
            await self._prepare()  # a spare that failed has given the template back
            fork = await self._load()
        async with fork.ended_on_failure():
            await fork.wake(deadline_s)
        self._current = fork

    async def _drop_changed_template(self) -> None:
        """Give a template back that somebody has changed, and end its spare: that would wake over other memory."""
        try:
            if self._template is not None:
                self._template.check()
        except FaultError as error:
            logger.warning("%s: it is opened again", error)
            if spare := await self._take_spare(cancel=True):
                await spare.kill()
            self._give_template_back()

    async def _prepare(self) -> None:
        """Make what lasts over reverts, where it is not there yet."""
        if self._run_dir is None:
            await asyncio.to_thread(sweep, self._settings.run_dir)
            self._run_dir = await asyncio.to_thread(RunDir.create, self._settings.run_dir)
        if self._image is None:
            self._image = await find_image(self._settings.image, self._settings.show_image)
        if self._template is None:
            version = await qemu_version()
            self._vm = await vm_of(self._image, self._settings, version)
            self._template = await template_of(self._vm, version, self._image, self._settings)

    async def _load(self) -> Fork:
        assert self._vm and self._template
        try:
            return await Fork.load(self._vm, self._template, self._new_folder())
        except FaultError:
            # Whatever is wrong with it, the next revert verifies the template, and makes it again if it must.
            self._give_template_back()
            raise

    def _give_template_back(self) -> None:
        if self._template is not None:
            self._template.release()
            self._template = None

    def _new_folder(self) -> Path:
        assert self._run_dir
        self._forks += 1
        return self._run_dir.path / f"{self._forks % 10_000}"

    async def _take_spare(self, *, cancel: bool = False) -> Fork | None:
        """Return the spare, waiting for one that is on its way; None where there is none that can be used."""
        task, self._spare = self._spare, None
        if task is None:
            return None
        if cancel:
            task.cancel()
        try:
            spare = await task
            if spare.machine.is_alive:
                return spare
            await spare.kill()
        except (FaultError, OSError) as error:
            logger.warning("the spare fork did not come up: %s", error)
        except asyncio.CancelledError:
            if not cancel:
                raise
        return None

    async def _report_end(self, fork: Fork) -> None:
        await asyncio.shield(fork.machine.ended)
        if self._state in RUNS:
            self._state = DesktopState.FAILED
            fault = (await fork.machine.failure("QEMU ended by itself")).fault
            logger.error("%s %s", fault.message, fault.evidence)

    async def _fail(self) -> None:
        self._state = DesktopState.FAILED
        self._lost_to = self.lost_to  # it is asked for when the fork is gone
        await self._discard()

    async def _discard(self) -> None:
        """End the current fork."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._current is not None:
            fork, self._current = self._current, None
            await fork.kill()

    async def _release(self) -> None:
        """Give back what lasts over reverts. Can run twice."""
        self._give_template_back()
        if self._run_dir is not None:
            await asyncio.to_thread(self._run_dir.remove)
            self._run_dir = None


def _task_forks(settings: QemuSettings) -> TaskForks | None:
    if not settings.task_snapshots:
        return None
    return TaskForks(SnapshotStore(settings.snapshot_dir, settings.snapshots_max, settings.snapshots_max_bytes))
