"""One fork: QEMU over a template's frozen memory and disk, made one of its own, proven clean.

Also the boot that a template is made of, as both go through the same guest.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from osworld_contract.faults import FaultError, FaultReason
from osworld_contract.names import GUEST_CHROMIUM_PORT, GUEST_SERVER_PORT, GUEST_VLC_PORT, GUEST_VNC_PORT
from osworld_envpod.causes import by_cause
from osworld_envpod.desktops.base import GuestAddresses
from osworld_envpod.desktops.qemu.argv import LOOPBACK, DirectBoot, FirmwareBoot, Role, VmFiles, qemu_argv
from osworld_envpod.desktops.qemu.boot_files import fork_boot
from osworld_envpod.desktops.qemu.bounds import Bounds
from osworld_envpod.desktops.qemu.files import copy_sparse, make_overlay
from osworld_envpod.desktops.qemu.guests import GuestKind
from osworld_envpod.desktops.qemu.image import VmImage
from osworld_envpod.desktops.qemu.machine import Machine
from osworld_envpod.desktops.qemu.settings import QemuSettings
from osworld_envpod.desktops.qemu.template import Template, open_template
from osworld_envpod.desktops.qemu.vm import Vm

WAKE_MAX_S: Final = 90.0
"""For a fork to become one of its own. A guess with room: 2 s on a machine with a load of 8 on 2 cores. One that hangs
leaves a reset time for another."""

logger = logging.getLogger(__name__)


@dataclass
class Fork:
    """A loaded machine. Paused until `wake`."""

    guest: GuestKind
    machine: Machine
    addresses: GuestAddresses
    folder: Path
    boot_id: str
    held: int | None = None
    """Descriptor that keeps the folder from being swept, where that is not its env server's own."""

    @classmethod
    async def load(cls, vm: Vm, template: Template, folder: Path) -> "Fork":
        """Start QEMU over `template` with its files in `folder`, which must not exist, and load the state.

        Raises:
            FaultError: The template was changed, or QEMU did not take it.
        """
        template.check()
        await asyncio.to_thread(folder.mkdir)
        return await cls._loaded(vm, _files(vm.boot, folder, ram=template.part("ram")), template, Role.FORK)

    @classmethod
    async def load_copy(cls, vm: Vm, template: Template, folder: Path) -> "Fork":
        """As `load`, in a folder that is there, with RAM that the guest's writes get into: a copy of the template's.

        Raises:
            FaultError: As `load`.
            OSError: The copy could not be made.
        """
        template.check()
        files = _files(vm.boot, folder, ram=folder / "ram")
        try:
            await asyncio.to_thread(copy_sparse, template.part("ram"), files.ram)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return await cls._loaded(vm, files, template, Role.SETUP)

    @classmethod
    async def _loaded(cls, vm: Vm, files: VmFiles, template: Template, role: Role) -> "Fork":
        folder = files.disk.parent
        machine = None
        try:
            await make_overlay(files.disk, template.part("disk.qcow2"))
            files = replace(files, boot=await asyncio.to_thread(fork_boot, files.boot, folder))
            machine = await Machine.launch(
                qemu_argv(vm.shape, files, role), files, template.part("state"), is_loaded=True
            )
            await machine.load()
            addresses = await _addresses(machine, has_agent=vm.guest.has_agent)
        except BaseException:
            if machine is not None:
                await machine.kill()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(vm.guest, machine, addresses, folder, uuid.uuid4().hex)

    async def wake(self, deadline_s: float) -> None:
        """Let the guest run, give it clock, entropy and name of its own, and prove it clean.

        Raises:
            FaultError: ``desktop_unclean``, or what the guest or QEMU failed with.
        """
        await self.machine.execute("cont")
        await self.guest.make_own(self.addresses, self.boot_id, min(deadline_s, WAKE_MAX_S))

    async def wake_set_up(self, windows: str | None, deadline_s: float) -> None:
        """As `wake`, for a guest with a task set up, which is no clean one; its windows must be `windows`, if given.

        Raises:
            FaultError: ``desktop_unclean``, or what the guest or QEMU failed with.
        """
        await self.machine.execute("cont")
        await self.guest.make_own_set_up(self.addresses, self.boot_id, windows, min(deadline_s, WAKE_MAX_S))

    @contextlib.asynccontextmanager
    async def ended_on_failure(self) -> AsyncIterator[None]:
        """End it and remove its files where the block fails.

        Raises:
            FaultError: ``disk_full`` in place of what the loss looked like, where a full disk was its cause.
        """
        try:
            yield
        except BaseException as error:
            await self.kill()
            if self.machine.is_disk_full and isinstance(error, FaultError):
                raise FaultError(by_cause(error.fault, FaultReason.DISK_FULL)) from error
            raise

    async def kill(self) -> None:
        """End it and remove its files; can run twice."""
        await self.machine.kill()
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
        if self.held is not None:
            os.close(self.held)
            self.held = None


async def template_of(vm: Vm, version: str, image: VmImage, settings: QemuSettings) -> Template:
    """Return the template that `vm` has under QEMU `version`, held; where there is none yet, one is booted.

    Raises:
        FaultError: It did not come up.
        OSError: The templates' folder cannot be written.
    """

    async def build(folder: Path) -> None:
        logger.info("no template yet: booting one under %s", vm.shape.accelerator)
        await boot_template(vm, image.disk, folder)

    bounds = Bounds(settings.templates_max, settings.templates_max_bytes)
    return await open_template(settings.template_dir, vm.template_key(version, image.digest), build, bounds)


async def boot_template(vm: Vm, disk: Path, folder: Path) -> None:
    """Boot `disk` in `folder` until its desktop is drawn, and freeze it there: ``ram``, ``state``, ``disk.qcow2``.

    Raises:
        FaultError: It did not come up.
    """
    began = time.monotonic()
    files = _files(vm.boot, folder, ram=folder / "ram")
    await make_overlay(files.disk, disk)
    machine = await Machine.launch(qemu_argv(vm.shape, files, Role.TEMPLATE), files, folder / "state", is_loaded=False)
    try:
        await vm.guest.await_boot(machine, await _addresses(machine, has_agent=vm.guest.has_agent))
        booted_s = time.monotonic() - began
        await machine.save(folder / "state")
        await machine.quit()
    except BaseException:
        await machine.kill()
        raise
    files.console.unlink(missing_ok=True)
    logger.info("booted in %.1f s, frozen in %.1f s more", booted_s, time.monotonic() - began - booted_s)


async def _addresses(machine: Machine, *, has_agent: bool) -> GuestAddresses:
    ports = await machine.forwarded_ports()
    try:
        return GuestAddresses(
            host=LOOPBACK,
            server_port=ports[GUEST_SERVER_PORT],
            chromium_port=ports[GUEST_CHROMIUM_PORT],
            vlc_port=ports[GUEST_VLC_PORT],
            vnc_port=ports[GUEST_VNC_PORT],
            has_agent=has_agent,
        )
    except KeyError as error:
        raise await machine.failure(f"QEMU forwards no port to the guest's {error}") from error


def _files(boot: DirectBoot | FirmwareBoot, folder: Path, *, ram: Path) -> VmFiles:
    return VmFiles(boot, folder / "disk.qcow2", ram, qmp=folder / "qmp", console=folder / "console")
