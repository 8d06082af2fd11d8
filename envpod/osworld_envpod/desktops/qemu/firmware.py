"""The firmware that boots an image which is a whole disk: a file of this machine, or QEMU's own BIOS.

OSWorld's ``Ubuntu.qcow2`` has a GUID partition table with an EFI system partition and no loader that a BIOS would
find; ``happysixd/osworld-docker`` boots it by edk2, as ``BOOT_MODE`` of qemus/qemu says where nobody sets it.
Source: jpablomm/green-agent, FINAL_SOLUTION.md, which quotes the container's boot.sh; nobody has looked here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from osworld_contract.faults import FaultReason, fault_error
from osworld_envpod.desktops.qemu.argv import FirmwareBoot
from osworld_envpod.desktops.qemu.files import first_sector, sha256
from osworld_envpod.desktops.qemu.settings import Firmware

UEFI_FILES: Final = (Path("/usr/share/ovmf/OVMF.fd"), Path("/usr/share/qemu/OVMF.fd"))
"""Where Debian and Ubuntu have code and variables in one file."""


BOOT_SIGNATURE: Final = b"\x55\xaa"
"""Ends the first sector of a disk with partitions, where they are in a GUID table too.
Source: UEFI specification 2.10, 5.2.3, protective MBR."""


async def refuse_unpartitioned(disk: Path) -> None:
    """Refuse a disk that no firmware boots, before one tries for as long as a boot may take.

    Raises:
        FaultError: ``image_invalid``: it has no partition table. ``desktop_start_failed``: it cannot be read.
    """
    if not (await first_sector(disk)).endswith(BOOT_SIGNATURE):
        raise fault_error(
            FaultReason.IMAGE_INVALID,
            "the image is a disk without partitions, which no firmware boots; one of our making wants its vmlinuz and"
            " initrd.img beside it",
        )


def find_firmware(wanted: Firmware, places: Sequence[Path] = UEFI_FILES) -> FirmwareBoot:
    """Return how a whole disk is booted here. Blocks.

    Raises:
        FaultError: ``desktop_start_failed``: the firmware is not installed.
    """
    if wanted is Firmware.BIOS:
        return FirmwareBoot(None, "")
    for place in places:
        if place.is_file():
            return FirmwareBoot(place, sha256(place))
    raise fault_error(
        FaultReason.DESKTOP_START_FAILED,
        "the image is a whole disk, and there is no UEFI firmware to boot it: install the Debian package ovmf, or set"
        " OSWORLD_QEMU_FIRMWARE=bios where the disk boots by a BIOS",
    )
