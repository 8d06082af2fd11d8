"""Bounds of a store whose folders are used again and again: those used longest ago go first."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osworld_envpod.desktops.qemu.files import used_bytes

USED_MARK: Final = "used"
"""File of a folder that is touched at each use."""


@dataclass(frozen=True)
class Bounds:
    """What a store may hold. The folder that was made or used just now, and those in use, stay beyond that."""

    count_max: int
    bytes_max: int
    """What they take of the disk."""

    def exceeding(self, others: Iterable[Path], kept: Path) -> Iterator[Path]:
        """Yield those of `others` that are too many or too much beside `kept`, which counts, the latest used first."""
        used = used_bytes(kept) if kept.is_dir() else 0
        for number, folder in enumerate(sorted(others, key=_last_use, reverse=True), start=1):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                used += used_bytes(folder)
            if number >= self.count_max or used > self.bytes_max:
                yield folder


def _last_use(folder: Path) -> float:
    try:
        return (folder / USED_MARK).stat().st_mtime
    except OSError:
        return 0.0
