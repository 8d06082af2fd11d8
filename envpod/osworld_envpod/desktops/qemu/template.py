"""Templates: desktops that were booted once and frozen. Made under a lock, verified before use, never written to.

A template is a folder named by `argv.template_key`: ``ram`` (the guest's memory), ``state`` (its devices),
``disk.qcow2`` (an overlay on the image), ``manifest.json``. It appears in one step and is held while it is used.
"""

import asyncio
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from osworld_contract.faults import FaultReason, fault_error
from osworld_envpod.desktops.qemu.accelerator import PROOF_LOCK
from osworld_envpod.desktops.qemu.bounds import USED_MARK, Bounds
from osworld_envpod.desktops.qemu.files import exclusive, hold, identity, if_free, remove_unheld, sha256

PARTS: Final = ("ram", "state", "disk.qcow2")
MANIFEST: Final = "manifest.json"
DRAFT_PREFIX: Final = ".draft-"
LOCK_SUFFIX: Final = ".lock"

logger = logging.getLogger(__name__)


class Manifest(BaseModel):
    """What a template's files must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: dict[str, str]


@dataclass(frozen=True)
class Template:
    """A template that is verified and held."""

    folder: Path
    identities: tuple[tuple[int, int, int], ...]
    lock: int

    def part(self, name: str) -> Path:
        """Return the path of one of `PARTS`."""
        return self.folder / name

    def check(self) -> None:
        """Refuse a template that somebody has changed since it was verified.

        Raises:
            FaultError: ``desktop_start_failed``.
        """
        try:
            now = tuple(identity(self.part(name)) for name in PARTS)
        except OSError as error:
            raise fault_error(
                FaultReason.DESKTOP_START_FAILED, f"the template lost a file: {error.filename}"
            ) from error
        if now != self.identities:
            raise fault_error(FaultReason.DESKTOP_START_FAILED, f"the template {self.folder.name} was changed")

    def release(self) -> None:
        """Allow that the template is removed."""
        os.close(self.lock)


async def open_template(store: Path, key: str, build: Callable[[Path], Awaitable[None]], bounds: Bounds) -> Template:
    """Return the template `key` of `store`; where it is missing or damaged, `build` makes one in an empty folder.

    What killed builders left in `store` is removed first, and afterwards what is over `bounds`.

    Raises:
        FaultError: What `build` raises.
        OSError: `store` cannot be written.
    """
    await asyncio.to_thread(store.mkdir, parents=True, exist_ok=True)
    folder = store / key
    async with exclusive(_lock_of(folder)):
        await asyncio.to_thread(_sweep, store)
        for _ in range(2):
            if template := await asyncio.to_thread(_adopt, folder):
                break
            await _make(folder, build)
        else:
            raise fault_error(FaultReason.DESKTOP_START_FAILED, f"the template {key} does not verify")
        await asyncio.to_thread(_prune, folder, bounds)
    return template


async def _make(folder: Path, build: Callable[[Path], Awaitable[None]]) -> None:
    began = time.monotonic()
    _remove_drafts(folder)  # by a builder that was killed: its lock is ours now
    draft = Path(tempfile.mkdtemp(prefix=f"{DRAFT_PREFIX}{folder.name}-", dir=folder.parent))
    try:
        await build(draft)
        await asyncio.to_thread(_seal, draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    logger.info("template %s: made in %.1f s", folder.name, time.monotonic() - began)


def _seal(draft: Path, folder: Path) -> None:
    """Write down what the files of `draft` are, and make it `folder` in one step."""
    digests = {name: sha256(draft / name) for name in PARTS}
    (draft / MANIFEST).write_text(Manifest(sha256=digests).model_dump_json())
    draft.rename(folder)


def _adopt(folder: Path) -> Template | None:
    """Return the template in `folder` if it is whole; remove what is there otherwise."""
    if not folder.is_dir():
        return None
    lock = hold(folder)
    try:
        identities = tuple(identity(folder / name) for name in PARTS)
        expected = Manifest.model_validate_json((folder / MANIFEST).read_bytes()).sha256
        damaged = [name for name in PARTS if sha256(folder / name) != expected.get(name)]
    except (OSError, ValidationError) as error:
        damaged = [type(error).__name__]
    if not damaged:
        (folder / USED_MARK).touch()
        return Template(folder, identities, lock)
    os.close(lock)
    logger.error("template %s is damaged (%s): it is made again", folder.name, ", ".join(damaged))
    shutil.rmtree(folder)
    return None


def _sweep(store: Path) -> None:
    """Remove the drafts of builders that were killed, and locks of templates that are gone: what nobody has locked."""
    left = {path.name.removeprefix(DRAFT_PREFIX).rpartition("-")[0] for path in store.glob(f"{DRAFT_PREFIX}*")}
    locks = {path.stem for path in store.glob(f"*{LOCK_SUFFIX}") if path.name != PROOF_LOCK}
    lone = {key for key in locks if not (store / key).exists()}
    for folder in (store / key for key in left | lone):
        with if_free(_lock_of(folder)) as is_ours:
            if is_ours:
                _remove_drafts(folder)
                _drop_lone_lock(folder)


def _prune(kept: Path, bounds: Bounds) -> None:
    """Remove the templates used longest ago that are over `bounds` and that nobody holds; `kept` counts, and stays."""
    found = [path for path in kept.parent.iterdir() if path.is_dir() and path != kept and path.name[0] != "."]
    for folder in bounds.exceeding(found, kept):
        with if_free(_lock_of(folder)) as is_ours:  # whoever adopts it has locked it
            if is_ours:
                if remove_unheld(folder):
                    logger.info("template %s: removed, it was not used for longest", folder.name)
                _drop_lone_lock(folder)


def _remove_drafts(folder: Path) -> None:
    for draft in folder.parent.glob(f"{DRAFT_PREFIX}{folder.name}-*"):
        shutil.rmtree(draft, ignore_errors=True)


def _drop_lone_lock(folder: Path) -> None:
    """Remove the file of the lock of `folder`, which must be held, where there is no such template any more."""
    if not folder.exists():
        _lock_of(folder).unlink()


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{LOCK_SUFFIX}")
