import struct

import pytest

from image_rig import CLUSTER_BYTES, qcow2_disk
from osworld_envpod.images.qcow2 import check_header


def _with(offset: int, form: str, *values: int) -> bytes:
    disk = bytearray(qcow2_disk())
    struct.pack_into(form, disk, offset, *values)
    return bytes(disk)


@pytest.mark.parametrize("version", [2, 3])
def test_a_disk_that_is_complete_in_itself_is_taken(version: int) -> None:
    disk = qcow2_disk(version=version)
    header = check_header(disk, len(disk))
    assert (header.version, header.virtual_bytes) == (version, 1 << 30)


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        (b"PK\x03\x04" + b"\0" * 200, "no qcow2"),
        (b"", "no qcow2"),
        (qcow2_disk()[:60], "ends inside its header"),
        (qcow2_disk()[:90], "truncated"),
        (_with(4, ">I", 4), "version 4"),
        (qcow2_disk(backing=200), "backing file"),
        (qcow2_disk(incompatible=1 << 2), "in another file"),
        (qcow2_disk(incompatible=1 << 1), "corrupt"),
        (qcow2_disk(incompatible=1 << 9), "not known"),
        (_with(104, ">II", 0x44415441, 8), "names another file"),
        (_with(104, ">II8xII", 0x6803F857, 3, 0x44415441, 8), "names another file"),
        (_with(104, ">II", 1, 1 << 30), "do not end"),
        (_with(100, ">I", 96), "header of 96"),
        (_with(20, ">I", 40), "cluster"),
        (_with(24, ">Q", 0), "disk of 0 bytes"),
        (_with(24, ">Q", 1 << 62), "not possible"),
        (_with(32, ">I", 2), "encrypted"),
        (_with(40, ">Q", 7), "tables are not"),
        (_with(40, ">Q", 1 << 40), "truncated"),
        (qcow2_disk()[: 2 * CLUSTER_BYTES], "truncated"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hostile_or_damaged_header_is_refused(disk: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_header(disk, len(disk))
