"""What a fork is given in place of kernel and initrd.

QEMU reads both into its memory and keeps them there for a firmware that boots. A fork has booted: nothing in it asks
for them again, as a guest that reboots ends its machine. But the device that shows them belongs to the state that is
loaded, so they cannot be left out. A firmware comes with its state, and is given as it is.
"""

import os
from pathlib import Path
from typing import Final

from osworld_envpod.desktops.qemu.argv import DirectBoot, FirmwareBoot

SECTOR_BYTES: Final = 512
SETUP_SECTORS_AT: Final = 0x1F1
OLD_SETUP_SECTORS: Final = 4
"""What 0 stands for. Source: Linux, Documentation/arch/x86/boot.rst, setup_sects."""

HEADER_BYTES: Final = 8192
"""What QEMU reads of a kernel to know its kind. Source: QEMU, hw/i386/x86.c, x86_load_linux."""


def write_boot_files(kernel: Path, folder: Path) -> tuple[Path, Path]:
    """Write the head of `kernel`, which QEMU takes for a kernel, and an initrd of zeros into `folder`; return both."""
    with kernel.open("rb") as file:
        head = file.read(SETUP_SECTORS_AT + 1)
        sectors = 1 + (head[SETUP_SECTORS_AT] or OLD_SETUP_SECTORS)
        # One sector beyond the setup: where there is none QEMU finds no kernel in the file.
        head += file.read(max(HEADER_BYTES, (sectors + 1) * SECTOR_BYTES) - len(head))
    stub, initrd = folder / "kernel", folder / "initrd"
    stub.write_bytes(head)
    initrd.write_bytes(bytes(os.sysconf("SC_PAGE_SIZE")))
    return stub, initrd


def fork_boot(boot: DirectBoot | FirmwareBoot, folder: Path) -> DirectBoot | FirmwareBoot:
    """Return what a fork of a machine that booted by `boot` is started with; its files are written into `folder`."""
    return DirectBoot(*write_boot_files(boot.kernel, folder)) if isinstance(boot, DirectBoot) else boot
