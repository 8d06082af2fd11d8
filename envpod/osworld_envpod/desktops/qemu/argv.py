"""From settings to QEMU's command line, and to the name of the template that it fits. Pure.

A fork loads its template's state into the very same machine. QEMU does not notice a device list that has changed, so
the name of a template is a hash of the whole command line, less file names.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from osworld_contract.names import GUEST_CHROMIUM_PORT, GUEST_SERVER_PORT, GUEST_VLC_PORT, GUEST_VNC_PORT
from osworld_envpod.desktops.qemu.settings import Accelerator

QEMU: Final = "qemu-system-x86_64"
LOOPBACK: Final = "127.0.0.1"
GUEST_PORTS: Final = (GUEST_SERVER_PORT, GUEST_CHROMIUM_PORT, GUEST_VLC_PORT, GUEST_VNC_PORT)
GUEST_ADDRESS: Final = "10.0.2.15"
NETWORK: Final = "net0"

KERNEL_ARGUMENTS: Final = "root=/dev/vda rw console=ttyS0 quiet mitigations=off systemd.show_status=0"
"""``mitigations=off``: all of a guest belongs to one desktop; nobody in it is kept from anybody else in it."""

SCREEN_PX: Final = (1920, 1080)
"""What the virtual GPU tells a guest with a firmware to show. Our own guest has a screen of its own, and no GPU."""

TCG_CPU: Final = "Nehalem"
"""The oldest model that numpy's wheels run on (x86-64-v2). Newer ones' vector instructions are slow to emulate."""


class Role(Enum):
    """What a machine is started for. It alone decides whether the machine's RAM file is written to."""

    TEMPLATE = "template"
    """Boots, with RAM in a file of its own."""
    FORK = "fork"
    """Waits for a state to load; maps the RAM of others privately, so that what it writes stays its own."""
    SETUP = "setup"
    """Waits for a state to load, with RAM in a copy of its own: what a task snapshot is made of."""


@dataclass(frozen=True)
class VmShape:
    """What of a machine its state depends on."""

    accelerator: Accelerator
    cpus: int
    memory_mib: int


@dataclass(frozen=True)
class DirectBoot:
    """QEMU puts a kernel into the guest's memory: how our own image boots."""

    kernel: Path
    initrd: Path


@dataclass(frozen=True)
class FirmwareBoot:
    """A firmware starts the loader on the disk: how an image boots that is a whole disk, as OSWorld's is."""

    firmware: Path | None
    """UEFI's, in one file; None: the BIOS that QEMU brings along."""
    digest: str
    """Of that file; empty for the BIOS, which comes with QEMU's version."""


@dataclass(frozen=True)
class VmFiles:
    """The files of one QEMU process."""

    boot: DirectBoot | FirmwareBoot
    disk: Path
    """Its own overlay."""
    ram: Path
    qmp: Path
    """A Unix socket on which the env server listens."""
    console: Path


_DIRECT_BOOT: Final = DirectBoot(Path("kernel"), Path("initrd"))
_OTHER_FILES: Final = tuple(Path(name) for name in ("disk", "ram", "qmp", "console"))


def qemu_argv(shape: VmShape, files: VmFiles, role: Role) -> Sequence[str]:
    """Return the command line of a machine with `role`."""
    # No path leads to a machine that writes into another one's RAM.
    assert role is Role.FORK or files.ram.parent == files.disk.parent, "a machine that writes its RAM owns the file"
    # A guest that reboots is no longer the one that was set up: QEMU ends, which is seen. But a loader may reboot once,
    # when it has written its entry into the firmware's variables.
    may_reboot = role is Role.TEMPLATE and isinstance(files.boot, FirmwareBoot)
    ram = f"memory-backend-file,id=mem,size={shape.memory_mib}M,mem-path={_escaped(files.ram)}"
    return [
        # The kernel ends QEMU with the env server's thread that started it.
        "setpriv", "--pdeathsig", "KILL", "--",
        QEMU,
        "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
        "-machine", "q35,memory-backend=mem",
        "-accel", shape.accelerator,
        "-cpu", "host" if shape.accelerator is Accelerator.KVM else TCG_CPU,
        "-smp", str(shape.cpus),
        "-m", f"{shape.memory_mib}M",
        "-object", f"{ram},share={'off' if role is Role.FORK else 'on'}",
        *_boot_options(files.boot),
        # Nothing that a guest writes is kept, so nothing needs to reach the disk.
        "-drive", f"if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,file={_escaped(files.disk)}",
        "-device", "virtio-blk-pci,drive=disk",
        "-netdev", _netdev(),
        "-device", f"virtio-net-pci,netdev={NETWORK},romfile=",
        "-device", "virtio-rng-pci",
        "-chardev", f"file,id=console,path={_escaped(files.console)}", "-serial", "chardev:console",
        "-chardev", f"socket,id=qmp,path={_escaped(files.qmp)}", "-mon", "chardev=qmp,mode=control",
        *(() if may_reboot else ("-no-reboot",)),
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        *(() if role is Role.TEMPLATE else ("-S", "-incoming", "defer")),
    ]  # fmt: skip


def template_key(
    shape: VmShape, qemu_version: str, image_digest: str, cpu_model: str, firmware: FirmwareBoot | None = None
) -> str:
    """Return the name of the template that fits: of a hash of all that its state depends on.

    Args:
        shape: The machine.
        qemu_version: As QEMU says it; fixes what ``q35`` means.
        image_digest: SHA-256 of the disk.
        cpu_model: The host's CPU; counts under KVM only, where the guest sees it.
        firmware: What boots the disk, where that is not QEMU.
    """
    files = VmFiles(firmware or _DIRECT_BOOT, *_OTHER_FILES)
    parts = [*qemu_argv(shape, files, Role.TEMPLATE), qemu_version, image_digest]
    if firmware is not None:
        parts.append(firmware.digest)
    if shape.accelerator is Accelerator.KVM:
        parts.append(cpu_model)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def proof_argv(kernel: Path) -> Sequence[str]:
    """Return a machine that shows whether a real kernel runs under KVM: it finds no disk, panics, and QEMU ends."""
    return [
        QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-accel", "kvm", "-cpu", "host",
        "-m", "256M", "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1", "-serial", "stdio", "-no-reboot",
    ]  # fmt: skip


def _boot_options(boot: DirectBoot | FirmwareBoot) -> Sequence[str]:
    if isinstance(boot, DirectBoot):
        return ["-kernel", str(boot.kernel), "-initrd", str(boot.initrd), "-append", KERNEL_ARGUMENTS]
    width_px, height_px = SCREEN_PX
    # As a ROM: it keeps its variables in memory, so that no machine needs a file of its own for them.
    firmware = () if boot.firmware is None else ("-bios", str(boot.firmware))
    # The device that OSWorld's container gives this disk.
    return [*firmware, "-device", f"virtio-vga,xres={width_px},yres={height_px}"]


def _netdev() -> str:
    # Port 0: the kernel picks a free one, and QEMU says which. restrict: the guest reaches nothing, not even 10.0.2.2.
    forwards = (f"hostfwd=tcp:{LOOPBACK}:0-{GUEST_ADDRESS}:{port}" for port in GUEST_PORTS)
    return ",".join((f"user,id={NETWORK},restrict=on,ipv6=off", *forwards))


def _escaped(path: Path) -> str:
    """Return `path` as a value in QEMU's option lists, where a comma is written twice."""
    return str(path).replace(",", ",,")
