"""A zip with one disk in it, as OSWorld publishes its images; kernel and initrd may lie beside the disk. All blocks.

What is written is named here and never by the archive, so no member can lead out of the folder.
"""

import errno
import hashlib
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

from osworld_envpod.images.blocking import StopFlag
from osworld_envpod.images.part import BLOCK_BYTES

DISK: Final = "disk.qcow2"
KERNEL_FILES: Final = ("vmlinuz", "initrd.img")
DISK_SUFFIX: Final = ".qcow2"
MAGIC: Final = b"PK\x03\x04"
METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MEMBERS_MAX: Final = 1000
"""A guess with much room: OSWorld's have one."""

ENCRYPTED: Final = 0x1


def is_zip(path: Path) -> bool:
    """Say whether the file at `path` begins as a zip does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def unpack(archive: Path, folder: Path, disk_max_bytes: int, stop: StopFlag, report: Callable[[int, int], None]) -> str:
    """Write disk, kernel and initrd of `archive` into `folder`, and return the disk's SHA-256.

    Raises:
        ValueError: It is damaged, has no disk or several, or something that is not taken.
        OSError: They cannot be written; ``ENOSPC`` before the first byte where there is no space for them.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, disk_max_bytes)
            _need_space(folder, sum(member.file_size for member in members.values()))
            digests = {name: _write(opened, member, folder / name, stop, report) for name, member in members.items()}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise ValueError(f"the zip is damaged: {error}") from error
    return digests[DISK]


def _members(archive: zipfile.ZipFile, disk_max_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Return what is taken, by the name it gets."""
    files = [member for member in archive.infolist() if not member.is_dir() and not _is_litter(member.filename)]
    if len(files) > MEMBERS_MAX:
        raise ValueError(f"the zip has {len(files)} files, over {MEMBERS_MAX}")
    disks = [member for member in files if member.filename.lower().endswith(DISK_SUFFIX)]
    if len(disks) != 1:
        names = ", ".join(member.filename[:100] for member in disks[:5]) or "none"
        raise ValueError(f"the zip has {len(disks)} disks and not one: {names}")
    taken = {DISK: disks[0]}
    for name in KERNEL_FILES:
        beside = PurePosixPath(disks[0].filename).with_name(name)
        if found := [member for member in files if member.filename == str(beside)]:
            taken[name] = found[-1]
    for member in taken.values():
        _check(member, disk_max_bytes)
    return taken


def _is_litter(name: str) -> bool:
    """Say whether this is what macOS puts into zips beside the files."""
    return name.startswith("__MACOSX/") or PurePosixPath(name).name.startswith("._")


def _check(member: zipfile.ZipInfo, disk_max_bytes: int) -> None:
    name = member.filename[:100]
    if member.flag_bits & ENCRYPTED:
        raise ValueError(f"{name} in the zip is encrypted")
    if member.compress_type not in METHODS:
        raise ValueError(f"{name} in the zip is packed in a way that is not known ({member.compress_type})")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise ValueError(f"{name} in the zip is no file")
    if member.file_size > disk_max_bytes:
        raise ValueError(f"{name} in the zip has {member.file_size} bytes, over {disk_max_bytes}")


def _need_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise OSError(errno.ENOSPC, f"{needed_bytes} bytes are needed, {free_bytes} are free", str(folder))


def _write(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    target: Path,
    stop: StopFlag,
    report: Callable[[int, int], None],
) -> str:
    digest, written = hashlib.sha256(), 0
    with archive.open(member) as packed, target.open("xb") as file:
        while block := packed.read(BLOCK_BYTES):  # never more than file_size; its end compares the checksum
            stop.check()
            file.write(block)
            digest.update(block)
            written += len(block)
            report(written, member.file_size)
    if written != member.file_size:
        raise ValueError(f"{member.filename[:100]} in the zip ends early")
    return digest.hexdigest()
