"""The header of a qcow2 disk. A disk from elsewhere may name other files of this machine; such a one is refused.

Source: docs/interop/qcow2.txt of QEMU.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAGIC: Final = b"QFI\xfb"
V2_BYTES: Final = 72
V3_BYTES: Final = 104
CLUSTER_BITS: Final = range(9, 22)
VIRTUAL_MAX_BYTES: Final = 16 * 1024**4
"""A guess with much room; OSWorld's disk has 30 GB."""

CORRUPT: Final = 1 << 1
EXTERNAL_DATA: Final = 1 << 2
KNOWN_INCOMPATIBLE: Final = 0b11111
"""Dirty, corrupt, external data file, compression type, extended L2 entries."""

EXTENSION_END: Final = 0
EXTENSION_DATA_FILE: Final = 0x44415441
_V2: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_V3: Final = struct.Struct(">QQQII")
_EXTENSION: Final = struct.Struct(">II")


@dataclass(frozen=True)
class Qcow2Header:
    """What matters of a header that was accepted."""

    version: int
    virtual_bytes: int


def check_header(head: bytes, file_bytes: int) -> Qcow2Header:
    """Return the header in `head`, the file's first cluster (or all of a shorter file).

    Args:
        head: The file's first bytes; 2 MiB hold every legal header.
        file_bytes: The file's size.

    Raises:
        ValueError: This is no qcow2 disk, a damaged one, or one that leads to other files.
    """
    if head[:4] != MAGIC:
        raise ValueError("this is no qcow2 disk")
    if len(head) < V2_BYTES:
        raise ValueError("the disk ends inside its header")
    _, version, backing, _, bits, virtual, crypt, l1_entries, l1, table, table_clusters, _, _ = _V2.unpack_from(head)
    if version not in (2, 3):
        raise ValueError(f"qcow2 version {version} is not known")
    if bits not in CLUSTER_BITS:
        raise ValueError(f"a cluster of 2^{bits} bytes is not possible")
    if backing:
        raise ValueError("the disk has a backing file: only one that is complete in itself is taken")
    if crypt:
        raise ValueError("the disk is encrypted")
    if not 0 < virtual <= VIRTUAL_MAX_BYTES:
        raise ValueError(f"a disk of {virtual} bytes is not possible")
    cluster = 1 << bits
    if l1 % cluster or table % cluster or not l1 or not table:
        raise ValueError("the disk's tables are not where tables can be")
    if l1 + 8 * l1_entries > file_bytes or table + cluster * table_clusters > file_bytes:
        raise ValueError("the disk is truncated: its tables lie behind its end")
    _check_extensions(head[:cluster], _v3_header_bytes(head) if version == 3 else V2_BYTES)
    return Qcow2Header(version, virtual)


def _v3_header_bytes(head: bytes) -> int:
    """Refuse features that are not known or lead elsewhere; return where the extensions begin."""
    if len(head) < V3_BYTES:
        raise ValueError("the disk ends inside its header")
    incompatible, _, _, _, header_bytes = _V3.unpack_from(head, V2_BYTES)
    if incompatible & EXTERNAL_DATA:
        raise ValueError("the disk keeps its data in another file")
    if incompatible & CORRUPT:
        raise ValueError("the disk is marked as corrupt")
    if incompatible & ~KNOWN_INCOMPATIBLE:
        raise ValueError(f"the disk has features that are not known ({incompatible:#x})")
    if header_bytes < V3_BYTES or header_bytes % 8:
        raise ValueError(f"a header of {header_bytes} bytes is not possible")
    return int(header_bytes)


def _check_extensions(cluster: bytes, offset: int) -> None:
    while offset + _EXTENSION.size <= len(cluster):
        kind, length = _EXTENSION.unpack_from(cluster, offset)
        if kind == EXTENSION_END:
            return
        if kind == EXTENSION_DATA_FILE:
            raise ValueError("the disk names another file for its data")
        offset += _EXTENSION.size + (length + 7) // 8 * 8
    if offset > len(cluster):
        raise ValueError("the disk's header extensions do not end inside its first cluster")


def check_disk(path: Path) -> Qcow2Header:
    """Return the header of the disk at `path`. Blocks.

    Raises:
        ValueError: As `check_header`.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return check_header(file.read(1 << CLUSTER_BITS[-1]), path.stat().st_size)
