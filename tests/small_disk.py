"""A small disk of a test's own, to be filled: a tmpfs in the mount namespace of a process that does nothing else.

The test reaches it through ``/proc/PID/root``, so that no mount, no root and no process of its own is needed for what
runs on it. The way there is short: sockets fit.
"""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

CHUNK_BYTES = 64 << 20
KEEP_SIZE = 1
"""Source: fallocate(2), FALLOC_FL_KEEP_SIZE."""


@contextlib.contextmanager
def small_disk(size_bytes: int) -> Iterator[Path]:
    """Give the folder of a disk of `size_bytes`; all on it goes with the block."""
    command = ("bwrap", "--die-with-parent", "--dev-bind", "/", "/", "--size", str(size_bytes), "--tmpfs", "/tmp")
    with subprocess.Popen(
        [*command, "sh", "-c", "echo $$; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:  # it ends with its input
        assert holder.stdout is not None
        folder = Path("/proc") / holder.stdout.readline().strip() / "root" / "tmp"
        status = os.statvfs(folder)
        assert status.f_blocks * status.f_frsize == size_bytes, "a disk of its own"
        yield folder


def fill(folder: Path) -> Path:
    """Take all the room that the disk of `folder` has left, and return the file to remove for it."""
    path = folder / "fill"
    with path.open("wb") as file:
        taken, chunk = 0, CHUNK_BYTES
        while chunk >= os.statvfs(folder).f_frsize:
            try:
                os.posix_fallocate(file.fileno(), taken, chunk)
                taken += chunk
            except OSError:
                chunk //= 2
    return path


def give_room(path: Path, size_bytes: int) -> None:
    """Let the file at `path` grow to `size_bytes` on a disk that is full by then."""
    with path.open("r+b") as file:
        assert ctypes.CDLL(None).fallocate(file.fileno(), KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(size_bytes)) == 0
