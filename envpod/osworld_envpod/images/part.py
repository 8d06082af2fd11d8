"""The file that a download grows in, and what is known of its origin. All of it blocks."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from osworld_envpod.images.blocking import StopFlag
from osworld_envpod.images.errors import no_space

BLOCK_BYTES: Final = 1024 * 1024


class Origin(BaseModel):
    """Which version of the file the bytes are of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    etag: str | None = None
    """A strong one, or the hash that names the content: only these say that two ranges are of the same bytes."""
    total_bytes: int | None = None


class Part:
    """A download under way, in `folder`. It outlives its process; the next one goes on where it ended."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "part"
        self._origin_path = folder / "part.json"

    @property
    def size_bytes(self) -> int:
        """Return how much is there."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def origin(self) -> Origin:
        """Return what is known; nothing where it is lost."""
        try:
            return Origin.model_validate_json(self._origin_path.read_bytes())
        except (OSError, ValidationError):
            return Origin()

    def begin(self, origin: Origin, shown: str) -> None:
        """Drop what is there; bytes of `origin` follow.

        Raises:
            FaultError: ``disk_full``: the whole of it would not fit.
            OSError: It cannot be written.
        """
        self.path.write_bytes(b"")  # first: no byte of another version may stand beside the new origin
        if origin.total_bytes is not None:
            free_bytes = shutil.disk_usage(self.path.parent).free
            if origin.total_bytes > free_bytes:
                raise no_space(shown, origin.total_bytes, free_bytes)
        draft = self._origin_path.with_suffix(".draft")
        draft.write_text(origin.model_dump_json())
        draft.replace(self._origin_path)

    def append(self, data: bytes) -> None:
        """Add `data`."""
        with self.path.open("ab", buffering=0) as file:
            view = memoryview(data)
            while view:  # a full disk takes some of it and raises at the next write
                view = view[file.write(view) :]

    def remove(self) -> None:
        """Forget the download."""
        self.path.unlink(missing_ok=True)
        self._origin_path.unlink(missing_ok=True)


def digest_of(path: Path, stop: StopFlag) -> str:
    """Return the SHA-256 of the file at `path`."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            stop.check()
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Have the file or folder at `path` on the disk before anything is built on it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
