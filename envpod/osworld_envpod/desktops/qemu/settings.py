"""Settings of a qemu desktop."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from osworld_contract.places import run_dir, vm_template_dir
from osworld_envpod.images import ImageRequest, Show, show_nothing


class Accelerator(StrEnum):
    """What runs the guest's instructions."""

    AUTO = "auto"
    """KVM where a proof boot under it passes, else software emulation."""
    KVM = "kvm"
    TCG = "tcg"
    """Software emulation."""


@dataclass(frozen=True)
class QemuSettings:
    """What a qemu desktop is made of."""

    run_dir: Path = field(default_factory=run_dir)
    """Where its disk overlay, sockets and console are, in a folder of its own."""

    template_dir: Path = field(default_factory=vm_template_dir)
    """Templates of this machine, shared by all its env servers."""

    image: ImageRequest | None = None
    """Leads to disk.qcow2, vmlinuz and initrd.img; None: the image that ``osworld_guest.image`` built."""

    show_image: Show = show_nothing
    """Is told how far the fetch of the image is."""

    accelerator: Accelerator = Accelerator.AUTO
    cpus: int = 2
    memory_mib: int = 1024

    spares: int = 1
    """Forks that wait, loaded and paused, for the next revert (0 or 1). One costs some 50 MiB of memory."""

    templates_max: int = 4
    """Templates that are kept; the least recently used ones that no env server uses are removed. A guess: each is as
    large as the guest's touched memory."""

    start_deadline_s: float = 900.0
    """For a start, which boots where there is no template yet. A guess with room: a minute under emulation on an idle
    machine, many more on a busy one. A fetch of the image comes on top, with its own."""
