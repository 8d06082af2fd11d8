"""QEMU's command line and the names of templates."""

from dataclasses import replace
from pathlib import Path

import pytest

from osworld_envpod.desktops.qemu.argv import DirectBoot, FirmwareBoot, Role, VmFiles, VmShape, qemu_argv, template_key
from osworld_envpod.desktops.qemu.settings import Accelerator

SHAPE = VmShape(Accelerator.TCG, cpus=2, memory_mib=1024)
UEFI = FirmwareBoot(Path("/f"), "u")
FILES = VmFiles(DirectBoot(Path("/k"), Path("/i")), Path("/d,1"), Path("/ram"), Path("/q"), Path("/c"))


def _key(
    shape: VmShape = SHAPE, version: str = "7.2", digest: str = "d", cpu: str = "c", boot: FirmwareBoot | None = None
) -> str:
    return template_key(shape, version, digest, cpu, boot)


def test_only_a_template_that_boots_maps_its_ram_shared() -> None:
    boots = " ".join(qemu_argv(SHAPE, FILES, Role.TEMPLATE))
    forks = " ".join(qemu_argv(SHAPE, FILES, Role.FORK))
    assert "mem-path=/ram,share=on" in boots and "-incoming" not in boots
    assert "mem-path=/ram,share=off" in forks and forks.endswith("-S -incoming defer")


def test_the_guest_reaches_nothing_and_is_reached_on_loopback_only() -> None:
    argv = qemu_argv(SHAPE, FILES, Role.FORK)
    network = argv[argv.index("-netdev") + 1]
    assert "restrict=on" in network
    forwards = [part for part in network.split(",") if part.startswith("hostfwd=")]
    assert len(forwards) == 4 and all(part.startswith("hostfwd=tcp:127.0.0.1:0-") for part in forwards)


def test_a_comma_in_a_path_is_no_option() -> None:
    assert any(part.endswith("file=/d,,1") for part in qemu_argv(SHAPE, FILES, Role.FORK))


@pytest.mark.parametrize(
    "other",
    [
        _key(replace(SHAPE, cpus=4)),
        _key(replace(SHAPE, memory_mib=2048)),
        _key(replace(SHAPE, accelerator=Accelerator.KVM)),
        _key(version="8.0"),
        _key(digest="e"),
        _key(boot=UEFI),
        _key(boot=FirmwareBoot(None, "")),
    ],
)
def test_whatever_a_state_depends_on_changes_the_name(other: str) -> None:
    assert other != _key()


def test_another_firmware_changes_the_name() -> None:
    others = (UEFI, replace(UEFI, digest="v"), replace(UEFI, firmware=Path("/g")), FirmwareBoot(None, ""))
    assert len({_key(boot=other) for other in others}) == len(others)


def test_a_whole_disk_is_booted_by_its_firmware_and_has_a_gpu() -> None:
    argv = " ".join(qemu_argv(SHAPE, replace(FILES, boot=UEFI), Role.TEMPLATE))
    assert "-bios /f" in argv and "-kernel" not in argv and "-append" not in argv
    assert "-device virtio-vga,xres=1920,yres=1080" in argv
    assert "-bios" not in qemu_argv(SHAPE, replace(FILES, boot=FirmwareBoot(None, "")), Role.TEMPLATE)


def test_a_kernel_of_ours_is_given_to_qemu_and_gets_no_gpu() -> None:
    argv = " ".join(qemu_argv(SHAPE, FILES, Role.FORK))
    assert "-kernel /k -initrd /i -append root=/dev/vda" in argv
    assert "-bios" not in argv and "virtio-vga" not in argv


def test_a_fork_that_reboots_ends_and_only_a_loader_may_reboot_while_its_template_is_made() -> None:
    disk = replace(FILES, boot=UEFI)
    may_reboot = {
        (files.boot, role)
        for files in (FILES, disk)
        for role in Role
        if "-no-reboot" not in qemu_argv(SHAPE, files, role)
    }
    assert may_reboot == {(UEFI, Role.TEMPLATE)}


def test_the_hosts_processor_counts_under_kvm_only() -> None:
    under_kvm = replace(SHAPE, accelerator=Accelerator.KVM)
    assert _key(cpu="other") == _key()
    assert _key(under_kvm, cpu="other") != _key(under_kvm)
