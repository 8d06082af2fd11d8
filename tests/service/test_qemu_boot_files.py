"""What a fork has in place of kernel and initrd. That QEMU takes it, and loads a state with it, the vm rung shows."""

from pathlib import Path

import pytest

from osworld_envpod.desktops.qemu.boot_files import SETUP_SECTORS_AT, write_boot_files

KERNEL_BYTES = 2**20


@pytest.mark.parametrize(("setup_sectors", "head_bytes"), [(0, 8192), (4, 8192), (39, 41 * 512), (255, 257 * 512)])
def test_the_head_of_a_kernel_has_its_setup_and_little_more(
    tmp_path: Path, setup_sectors: int, head_bytes: int
) -> None:
    kernel = tmp_path / "vmlinuz"
    content = bytearray(range(256)) * (KERNEL_BYTES // 256)
    content[SETUP_SECTORS_AT] = setup_sectors
    kernel.write_bytes(content)
    folder = tmp_path / "fork"
    folder.mkdir()
    stub, initrd = write_boot_files(kernel, folder)
    assert stub.read_bytes() == content[:head_bytes]
    assert set(initrd.read_bytes()) == {0}
    assert kernel.stat().st_size == KERNEL_BYTES
