"""The qemu desktop: a virtual machine that is forked from a template at each revert. Its states are driven here.

What an episode did to memory, disk and processes ends with its fork. One spare fork is loaded ahead and waits paused.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Literal

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_envpod.desktops.base import Desktop, DesktopFacts, DesktopState, GuestAddresses
from osworld_envpod.desktops.os_faults import os_fault
from osworld_envpod.desktops.qemu.accelerator import choose_accelerator
from osworld_envpod.desktops.qemu.argv import VmShape, template_key
from osworld_envpod.desktops.qemu.fork import Fork, boot_template
from osworld_envpod.desktops.qemu.host import cpu_model, qemu_version
from osworld_envpod.desktops.qemu.image import VmImage, find_image
from osworld_envpod.desktops.qemu.settings import Accelerator, QemuSettings
from osworld_envpod.desktops.qemu.template import Template, open_template
from osworld_envpod.desktops.rundir import RunDir, sweep

_RUNS: Final = (DesktopState.READY, DesktopState.PAUSED)
_REVERTIBLE: Final = (*_RUNS, DesktopState.FAILED)

logger = logging.getLogger(__name__)


class QemuDesktop(Desktop):
    """See `Desktop`. Start it from a thread that lives as long as it does: QEMU ends with its parent thread."""

    def __init__(self, settings: QemuSettings | None = None) -> None:
        self._settings = settings or QemuSettings()
        self._state = DesktopState.STOPPED
        self._shape: VmShape | None = None
        self._image: VmImage | None = None
        self._template: Template | None = None
        self._run_dir: RunDir | None = None
        self._current: Fork | None = None
        self._spare: asyncio.Task[Fork] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._forks = 0

    @property
    def state(self) -> DesktopState:
        """Return the state."""
        return self._state

    @property
    def facts(self) -> DesktopFacts:
        """Return what this desktop can do. The accelerator is known once it was started; it reads ``tcg`` before."""
        accelerator: Literal["kvm", "tcg"] = "tcg"
        if self._shape is not None and self._shape.accelerator is Accelerator.KVM:
            accelerator = "kvm"
        digest = self._image.digest if self._image else None
        return DesktopFacts("qemu", accelerator, can_pause=True, can_fork=True, root="real", image_digest=digest)

    @property
    def start_deadline_s(self) -> float:
        """Return the seconds that a start may take."""
        image = self._settings.image
        return self._settings.start_deadline_s + (image.limits.total_s if image and image.is_elsewhere else 0.0)

    @property
    def addresses(self) -> GuestAddresses:
        """Return the guest's addresses; each fork has ports of its own."""
        if self._state not in _RUNS or self._current is None:
            raise RuntimeError(f"a desktop that is {self._state} has no addresses")
        return self._current.addresses

    @property
    def template(self) -> Template:
        """Return the template that the next revert forks."""
        if self._template is None:
            raise RuntimeError(f"a desktop that is {self._state} has no template")
        return self._template

    async def start(self, deadline_s: float) -> None:
        """Find or boot the template, fork it. A start that fails leaves no process, port or file but templates."""
        if self._state is not DesktopState.STOPPED:
            raise RuntimeError(f"a desktop that is {self._state} cannot be started")
        self._state = DesktopState.STARTING
        try:
            async with self._moving(deadline_s, FaultReason.DESKTOP_START_FAILED):
                await self._take_fork(deadline_s)
        except BaseException:
            await self._release()
            self._state = DesktopState.FAILED
            raise

    async def revert(self, deadline_s: float) -> None:
        """End the fork and take a fresh one."""
        if self._state not in _REVERTIBLE:
            raise RuntimeError(f"a desktop that is {self._state} cannot be reverted")
        self._state = DesktopState.REVERTING
        async with self._moving(deadline_s, FaultReason.DESKTOP_UNCLEAN):
            await self._discard()
            await self._take_fork(deadline_s)

    async def pause(self, deadline_s: float) -> None:
        """Stop the guest's processors. Nothing while it is paused already."""
        await self._switch("stop", DesktopState.READY, DesktopState.PAUSED, deadline_s)

    async def resume(self, deadline_s: float) -> None:
        """Let the guest's processors run. Nothing while they do."""
        await self._switch("cont", DesktopState.PAUSED, DesktopState.READY, deadline_s)

    async def stop(self, deadline_s: float) -> None:
        """End everything. Works from any state."""
        if self._state is DesktopState.STOPPED:
            return
        try:
            async with asyncio.timeout(deadline_s):
                await self._discard()
                if spare := await self._take_spare(cancel=True):
                    await spare.kill()
                await self._release()
        except TimeoutError as error:
            self._state = DesktopState.FAILED
            raise fault_error(FaultReason.OPERATION_TIMEOUT, f"the desktop did not stop in {deadline_s:g} s") from error
        self._state = DesktopState.STOPPED

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
        await self._prepare()
        fork = await self._take_spare()
        if fork is None:
            await self._prepare()  # a spare that failed has given the template back
            fork = await self._load()
        try:
            await fork.wake(deadline_s)
        except BaseException:
            await fork.kill()
            raise
        self._current = fork

    async def _prepare(self) -> None:
        """Make what lasts over reverts, where it is not there yet."""
        if self._run_dir is None:
            await asyncio.to_thread(sweep, self._settings.run_dir)
            self._run_dir = await asyncio.to_thread(RunDir.create, self._settings.run_dir)
        if self._image is None:
            self._image = await find_image(self._settings.image, self._settings.show_image)
        if self._template is None:
            self._template = await self._open_template(self._image)

    async def _open_template(self, image: VmImage) -> Template:
        settings = self._settings
        settings.template_dir.mkdir(parents=True, exist_ok=True)
        version = await qemu_version()
        accelerator = await choose_accelerator(settings.accelerator, image.kernel, version, settings.template_dir)
        shape = self._shape = VmShape(accelerator, settings.cpus, settings.memory_mib)

        async def build(folder: Path) -> None:
            logger.info("no template yet: booting one under %s", accelerator)
            await boot_template(shape, image, folder)

        key = template_key(shape, version, image.digest, cpu_model())
        return await open_template(settings.template_dir, key, build, settings.templates_max)

    async def _load(self) -> Fork:
        assert self._shape and self._image and self._template and self._run_dir
        self._forks += 1
        try:
            return await Fork.load(
                self._shape, self._image, self._template, self._run_dir.path / f"{self._forks % 10_000}"
            )
        except FaultError:
            # Whatever is wrong with it, the next revert verifies the template, and makes it again if it must.
            self._template.release()
            self._template = None
            raise

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
        if self._state in _RUNS:
            self._state = DesktopState.FAILED
            fault = (await fork.machine.failure("QEMU ended by itself")).fault
            logger.error("%s %s", fault.message, fault.evidence)

    async def _fail(self) -> None:
        self._state = DesktopState.FAILED
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
        if self._template is not None:
            self._template.release()
            self._template = None
        if self._run_dir is not None:
            await asyncio.to_thread(self._run_dir.remove)
            self._run_dir = None
