"""Settings of a qemu desktop."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from osworld_contract.names import GUEST_PASSWORD
from osworld_contract.places import run_dir, task_snapshot_dir, vm_template_dir
from osworld_envpod.images import ImageRequest, Show, show_nothing


class Accelerator(StrEnum):
    """What runs the guest's instructions."""

    AUTO = "auto"
    """KVM where a proof boot under it passes, else software emulation."""
    KVM = "kvm"
    TCG = "tcg"
    """Software emulation."""


class Firmware(StrEnum):
    """What boots an image that is a whole disk."""

    UEFI = "uefi"
    BIOS = "bios"


OWN_MEMORY_MIB: Final = 1024
DISK_MEMORY_MIB: Final = 4096
"""What OSWorld gives its image. Source: desktop-env, DockerProvider: ``RAM_SIZE=4G``."""


@dataclass(frozen=True)
class QemuSettings:
    """What a qemu desktop is made of."""

    run_dir: Path = field(default_factory=run_dir)
    """Where its disk overlay, sockets and console are, in a folder of its own."""

    template_dir: Path = field(default_factory=vm_template_dir)
    """Templates of this machine, shared by all its env servers."""

    image: ImageRequest | None = None
    """Leads to disk.qcow2, vmlinuz and initrd.img, or to a whole disk; None: the image that ``osworld_guest.image``
    built."""

    show_image: Show = show_nothing
    """Is told how far the fetch of the image is."""

    accelerator: Accelerator = Accelerator.AUTO
    cpus: int = 2
    memory_mib: int | None = None
    """None: 1024 for an image of ours, 4096 for a whole disk."""

    firmware: Firmware = Firmware.UEFI
    """Boots an image that is a whole disk."""

    password: str = field(default=GUEST_PASSWORD, repr=False)
    """Of the guest's user, for what only root may do in a fork of a whole disk."""

    rest_deadline_s: float = 120.0
    """For a whole disk's desktop to come to rest after its first screen; it is frozen as it is then. A guess: GNOME
    starts for some 20 s under KVM, and has no agent to ask."""

    spares: int = 1
    """Forks that wait, loaded and paused, for the next revert (0 or 1). One costs some 50 MiB of memory."""

    templates_max: int = 4
    """Templates that are kept; the least recently used ones that no env server uses are removed. A guess: each is as
    large as the guest's touched memory."""

    templates_max_bytes: int = 32 * 2**30
    """What they may take of the disk. A guess: four of OSWorld's image, twice over."""

    task_snapshots: bool = True
    """Freeze the machine after a task's setup, so that its next resets fork it there."""

    snapshot_dir: Path = field(default_factory=task_snapshot_dir)
    """Task snapshots of this machine, shared by all its env servers."""

    snapshots_max: int = 32
    """Task snapshots that are kept; the least recently used ones go."""

    snapshots_max_bytes: int = 200 * 2**30
    """What they may take of the disk. One is as large as the template, and what its task wrote beyond."""

    boot_deadline_s: float = 2400.0
    """For a start with an image of somebody else's making, which may be OSWorld's: 20 to 40 min under emulation."""

    start_deadline_s: float = 900.0
    """For a start, which boots where there is no template yet. A guess with room: a minute under emulation on an idle
    machine, many more on a busy one. A fetch of the image comes on top, with its own."""
