"""What an image is run as on this machine: the shape of its machine, what boots it, what its guest can be asked."""

import asyncio
from dataclasses import dataclass

from osworld_envpod.desktops.qemu.accelerator import KvmTrial, choose_accelerator
from osworld_envpod.desktops.qemu.argv import DirectBoot, FirmwareBoot, VmShape, template_key
from osworld_envpod.desktops.qemu.firmware import find_firmware, refuse_unpartitioned
from osworld_envpod.desktops.qemu.guests import GuestKind, OsworldGuest, OwnGuest
from osworld_envpod.desktops.qemu.host import cpu_model
from osworld_envpod.desktops.qemu.image import VmImage, proof_kernel
from osworld_envpod.desktops.qemu.settings import DISK_MEMORY_MIB, OWN_MEMORY_MIB, Accelerator, QemuSettings


@dataclass(frozen=True)
class Vm:
    """What a template and all its forks have in common."""

    shape: VmShape
    boot: DirectBoot | FirmwareBoot
    guest: GuestKind

    def template_key(self, qemu_version: str, image_digest: str) -> str:
        """Return the name of the template that fits on this machine."""
        firmware = self.boot if isinstance(self.boot, FirmwareBoot) else None
        return template_key(self.shape, qemu_version, image_digest, cpu_model(), firmware)


async def vm_of(image: VmImage, settings: QemuSettings, qemu_version: str) -> Vm:
    """Return what `image` is run as.

    Raises:
        FaultError: ``desktop_start_failed``: the firmware or the accelerator that was asked for is not to be had.
            ``image_invalid``: nothing boots it.
        OSError: The templates' folder cannot be made.
    """
    settings.template_dir.mkdir(parents=True, exist_ok=True)  # the trial's note lies there
    kernel = image.kernel or await proof_kernel()
    trial = KvmTrial(kernel, qemu_version, settings.template_dir) if kernel else None
    accelerator = await choose_accelerator(settings.accelerator, trial)
    if (direct_boot := image.direct_boot) is not None:
        return Vm(_shape(accelerator, settings, OWN_MEMORY_MIB), direct_boot, OwnGuest())
    await refuse_unpartitioned(image.disk)
    firmware = await asyncio.to_thread(find_firmware, settings.firmware)
    guest = OsworldGuest(settings.password, settings.rest_deadline_s)
    return Vm(_shape(accelerator, settings, DISK_MEMORY_MIB), firmware, guest)


def _shape(accelerator: Accelerator, settings: QemuSettings, memory_mib: int) -> VmShape:
    return VmShape(accelerator, settings.cpus, settings.memory_mib or memory_mib)
