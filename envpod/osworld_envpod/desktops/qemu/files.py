"""Files of virtual machines: made, hashed, recognized, locked. Hashing blocks: call it in a thread."""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Final

from osworld_contract.faults import FaultReason, fault_error

LOCK_CHECK_S: Final = 0.1
BLOCK_BYTES: Final = 512
"""Of ``st_blocks``, whatever the file system's own are. Source: stat(2)."""

QEMU_IMG_DEADLINE_S: Final = 30.0
"""A guess with room: 15 ms on an idle machine."""


@contextlib.asynccontextmanager
async def exclusive(path: Path) -> AsyncIterator[None]:
    """Hold the lock at `path`, waiting for who holds it as long as the caller lets it. It ends with its holder."""
    while True:
        with path.open("a") as file:
            if _is_locked(file, path):
                yield
                return
        await asyncio.sleep(LOCK_CHECK_S)  # the kernel tells nobody when such a lock is free


def drop_lock(path: Path) -> None:
    """Remove the file of a lock unless somebody holds it. Who waits for it makes it anew."""
    with contextlib.suppress(FileNotFoundError), path.open("r+") as file:
        if _is_locked(file, path):
            path.unlink()


@contextlib.contextmanager
def if_free(path: Path) -> Iterator[bool]:
    """Hold the lock at `path` in the block, and say so, unless somebody else does. It makes the file.

    Who holds it may remove the file.
    """
    with path.open("a") as file:
        yield _is_locked(file, path)


def _is_locked(file: IO[str], path: Path) -> bool:
    """Lock `file` if nobody else has, and if it is still what is at `path`."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def hold(folder: Path) -> int:
    """Keep `folder` from being removed until the descriptor that is returned is closed.

    Raises:
        OSError: It is not there, or is being removed.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def remove_unheld(folder: Path) -> bool:
    """Remove `folder` unless somebody holds it. Return whether this call removed it."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def sha256(path: Path) -> str:
    """Return the digest of the file at `path`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_sparse(source: Path, target: Path) -> None:
    """Copy `source` to `target`, which must not exist; holes stay holes, and where the file system can, all is shared.

    They may be on different file systems.

    Raises:
        OSError: It cannot be written; a half copy may be there.
    """
    with source.open("rb") as reading, target.open("xb") as writing:
        size = os.fstat(reading.fileno()).st_size
        os.ftruncate(writing.fileno(), size)
        start = 0
        while start < size:
            try:
                start = os.lseek(reading.fileno(), start, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # a hole to the end
                    return
                raise
            end = os.lseek(reading.fileno(), start, os.SEEK_HOLE)
            while start < end:
                copied = _copy_range(reading.fileno(), writing.fileno(), start, end - start)
                if not copied:
                    raise OSError(errno.EIO, "the file became shorter while it was copied", str(source))
                start += copied


def _copy_range(source: int, target: int, start: int, count: int) -> int:
    """Copy up to `count` bytes at `start` and return how many they were."""
    try:
        return os.copy_file_range(source, target, count, start, start)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    os.lseek(target, start, os.SEEK_SET)
    return os.sendfile(target, source, start, count)


def used_bytes(folder: Path) -> int:
    """Return what the files right in `folder` take on the disk."""
    return sum(entry.stat().st_blocks * BLOCK_BYTES for entry in os.scandir(folder))


def identity(path: Path) -> tuple[int, int, int]:
    """Return what changes when somebody replaces or writes the file: inode, size, time of the last change in ns."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


async def make_overlay(target: Path, backing: Path) -> None:
    """Make an empty disk whose content is `backing` until it is written to.

    Raises:
        FaultError: ``desktop_start_failed`` with what qemu-img said.
        OSError: There is no qemu-img.
    """
    await _qemu_img(
        "the disk's overlay cannot be made", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, target
    )


async def first_sector(disk: Path) -> bytes:
    """Return the first 512 bytes that a guest sees on a qcow2 disk.

    Raises:
        FaultError: ``desktop_start_failed`` with what qemu-img said.
        OSError: There is no qemu-img.
    """
    with tempfile.TemporaryDirectory() as folder:
        sector = Path(folder) / "sector"
        order = ("dd", "-f", "qcow2", "-O", "raw", f"bs={BLOCK_BYTES}", "count=1", f"if={disk}", f"of={sector}")
        await _qemu_img("the disk cannot be read", *order)
        return sector.read_bytes()


async def _qemu_img(otherwise: str, *arguments: str | Path) -> None:
    process = await asyncio.create_subprocess_exec("qemu-img", *arguments, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    try:
        async with asyncio.timeout(QEMU_IMG_DEADLINE_S):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        message = errors.decode(errors="replace").strip()[:500]
        reason = FaultReason.DISK_FULL if "No space left" in message else FaultReason.DESKTOP_START_FAILED
        raise fault_error(reason, f"{otherwise}: {message}", exit_code=process.returncode)
