"""The task snapshots of this machine: found, claimed by whoever makes one, published once proven, dropped when old.

All env servers of a machine share the store. A snapshot is a template after one task's setup: a folder named by its key
with a template's parts and a manifest, which is written last. It is never verified across a boot of this machine: it is
a cache, and made again in a minute. Whoever makes one holds a lock that ends with its process, and works in a folder of
its own, held likewise: what can be locked was left behind.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from osworld_envpod.desktops.qemu.accelerator import HOST_BOOT_ID
from osworld_envpod.desktops.qemu.bounds import USED_MARK, Bounds
from osworld_envpod.desktops.qemu.files import drop_lock, exclusive, hold, identity, remove_unheld
from osworld_envpod.desktops.qemu.template import PARTS, Template

MANIFEST: Final = "snapshot.json"
BUILD_PREFIX: Final = ".build-"
REFUSED_SUFFIX: Final = ".refused"
REFUSAL_S: Final = 3600.0
"""How long a task that could not be frozen is set up anew each time, before it is tried again. A guess: an epoch of
training passes, and a cause outside of the task may have passed too."""

logger = logging.getLogger(__name__)


class SnapshotManifest(BaseModel):
    """What a snapshot's files are, and what its screen showed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host_boot_id: str
    identities: tuple[tuple[int, int, int], ...]
    """Of `PARTS`, in their order."""
    windows: str
    """Digest of windows and focused title."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that is proven and held."""

    template: Template
    windows: str


class SnapshotStore:
    """The snapshots in `folder`, of which at most `count_max` are kept, and at most `bytes_max` of them."""

    def __init__(self, folder: Path, count_max: int, bytes_max: int) -> None:
        self._folder = folder
        self._bounds = Bounds(count_max, bytes_max)

    def find(self, key: str) -> Snapshot | None:
        """Return the snapshot `key`, held; None where there is none that is whole."""
        folder = self._folder / key
        try:
            lock = hold(folder)
        except OSError:  # not there, or being removed
            return None
        try:
            manifest = SnapshotManifest.model_validate_json((folder / MANIFEST).read_bytes())
            identities = tuple(identity(folder / name) for name in PARTS)
            if (manifest.host_boot_id, manifest.identities) == (host_boot_id(), identities):
                (folder / USED_MARK).touch()
                return Snapshot(Template(folder, identities, lock), manifest.windows)
        except FileNotFoundError:  # thrown away by another env server
            pass
        except (OSError, ValidationError) as error:
            logger.warning("task snapshot %s cannot be read: %s", key, error)
        os.close(lock)
        return None

    @contextlib.asynccontextmanager
    async def claim(self, key: str) -> AsyncIterator[None]:
        """Hold the right to make the snapshot `key`, waiting for who holds it as long as the caller lets it.

        Raises:
            OSError: The store cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        async with exclusive(self._lock_of(key)):
            yield

    @contextlib.contextmanager
    def building(self) -> Iterator[Path]:
        """Give an empty folder to make a snapshot in, which nobody removes meanwhile."""
        folder, lock = self._held_folder()
        try:
            yield folder
        finally:
            os.close(lock)

    def has_room(self, size_bytes: int) -> bool:
        """Say whether the disk has `size_bytes`, after what is over the bounds or left behind was removed."""
        self._prune("")
        return shutil.disk_usage(self._folder).free >= size_bytes

    def publish(self, folder: Path, key: str, windows: str) -> Snapshot:
        """Make what lies in `folder` the snapshot `key`, for everybody. The claim must be held.

        Raises:
            OSError: It cannot be written.
        """
        identities = tuple(identity(folder / name) for name in PARTS)
        manifest = SnapshotManifest(host_boot_id=host_boot_id(), identities=identities, windows=windows)
        draft = folder / f"{MANIFEST}.draft"
        draft.write_text(manifest.model_dump_json())
        draft.replace(folder / MANIFEST)
        lock = hold(folder)
        try:
            (folder / USED_MARK).touch()
            shutil.rmtree(self._folder / key, ignore_errors=True)  # one that was not whole
            folder.rename(self._folder / key)
        except BaseException:
            os.close(lock)
            raise
        self._prune(key)
        return Snapshot(Template(self._folder / key, identities, lock), windows)

    def throw_away(self, key: str) -> None:
        """Let nobody find the snapshot `key` any more; forks of it run on."""
        with contextlib.suppress(OSError):
            (self._folder / key / MANIFEST).unlink(missing_ok=True)

    def refuse(self, key: str, reason: str) -> None:
        """Note that `key` could not be frozen."""
        logger.warning("task snapshot %s: not made: %s", key, reason)
        with contextlib.suppress(OSError):  # on a full disk the next reset finds out again
            (self._folder / f"{key}{REFUSED_SUFFIX}").write_text(f"{reason}\n")

    def is_refused(self, key: str) -> bool:
        """Say whether `key` could not be frozen, not long ago."""
        try:
            age_s = time.time() - (self._folder / f"{key}{REFUSED_SUFFIX}").stat().st_mtime
        except OSError:
            return False
        return age_s < REFUSAL_S

    def _lock_of(self, key: str) -> Path:
        return self._folder / f"{key}.lock"

    def _held_folder(self) -> tuple[Path, int]:
        """Make a folder and hold it; one that another process swept in between is made again."""
        while True:
            folder = Path(tempfile.mkdtemp(prefix=BUILD_PREFIX, dir=self._folder))
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                lock = hold(folder)
                if folder.exists():
                    return folder, lock
                os.close(lock)

    def _prune(self, kept: str) -> None:
        """Remove what nobody can use, and of the rest the snapshots used longest ago that are beyond the bounds.

        `kept` is made or was made just now: it counts, and stays.
        """
        found = []
        for folder in self._folder.iterdir():
            if not folder.is_dir():
                if folder.suffix == REFUSED_SUFFIX and not self.is_refused(folder.stem):
                    folder.unlink(missing_ok=True)
            elif folder.name.startswith(BUILD_PREFIX) or not (folder / MANIFEST).exists():
                _remove_unheld(folder)
            elif folder.name != kept:
                found.append(folder)
        for folder in self._bounds.exceeding(found, self._folder / kept):
            _remove_unheld(folder)
            drop_lock(self._lock_of(folder.name))


def _remove_unheld(folder: Path) -> None:
    if remove_unheld(folder):
        logger.info("task snapshots: removed %s", folder.name)


def host_boot_id() -> str:
    """Return what changes with each boot of this machine."""
    return HOST_BOOT_ID.read_text().strip()
