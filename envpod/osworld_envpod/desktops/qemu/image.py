"""The image that a virtual machine boots from: our own, found by the guest's own program, or one in a folder.

One with a kernel beside its disk is of our kind, with our agent in it. One without is a whole disk, with a loader of
its own and OSWorld's server, as OSWorld publishes its images.

The guest is another part, so it is started and not imported.
"""

import asyncio
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_envpod.desktops.qemu.argv import DirectBoot
from osworld_envpod.desktops.qemu.files import sha256
from osworld_envpod.images import ImageRequest, Show, fetch_image, show_nothing

BOOT_FOLDER: Final = Path("/boot")
FIND_DEADLINE_S: Final = 60.0
EVIDENCE_CHARS: Final = 1000

logger = logging.getLogger(__name__)


class VmImage(BaseModel):
    """A disk, and kernel and initrd where it is not a whole one. None of them is ever written to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    disk: Path
    kernel: Path | None = None
    initrd: Path | None = None
    digest: str
    """SHA-256 of the disk."""

    @property
    def direct_boot(self) -> DirectBoot | None:
        """Return how QEMU boots it, None for a whole disk, which a firmware boots."""
        return None if self.kernel is None or self.initrd is None else DirectBoot(self.kernel, self.initrd)


def image_in(folder: Path, shown: str) -> VmImage:
    """Return the image in `folder`: the files that ``osworld_guest.image`` makes, or a whole disk. Faults say `shown`.

    Blocks, for minutes where ``disk.sha256`` is not beside a disk of OSWorld's size.

    Raises:
        FaultError: ``desktop_start_failed``: a file is missing.
    """
    disk, kernel, initrd = (folder.resolve() / name for name in ("disk.qcow2", "vmlinuz", "initrd.img"))
    is_whole_disk = not kernel.is_file() and not initrd.is_file()
    if missing := [path.name for path in ((disk,) if is_whole_disk else (disk, kernel, initrd)) if not path.is_file()]:
        raise fault_error(FaultReason.DESKTOP_START_FAILED, f"OSWORLD_QEMU_IMAGE: {shown} has no {', '.join(missing)}")
    digest = _digest(disk)
    if is_whole_disk:
        return VmImage(disk=disk, digest=digest)
    return VmImage(disk=disk, kernel=kernel, initrd=initrd, digest=digest)


def _digest(disk: Path) -> str:
    known = disk.with_name("disk.sha256")
    if known.is_file():
        return known.read_text().split()[0]
    logger.warning("%s is read whole for its hash at each start: `sha256sum` it into %s", disk, known.name)
    return sha256(disk)


async def find_image(request: ImageRequest | None, show: Show = show_nothing) -> VmImage:
    """Return the image that `request` leads to, fetched if need be, or the one that this installation's recipe built.

    Raises:
        FaultError: ``desktop_start_failed``: there is none, or the faults of `fetch_image`.
    """
    if request is not None:
        folder = await fetch_image(request, show)
        return await asyncio.to_thread(image_in, folder, request.address.shown)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "osworld_guest.image", "--find", stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(FIND_DEADLINE_S):
            output, errors = await process.communicate()
    except TimeoutError as error:
        raise fault_error(FaultReason.DESKTOP_START_FAILED, "the guest image was not found in time") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines() or ["no output"]
        raise fault_error(FaultReason.DESKTOP_START_FAILED, lines[-1][:EVIDENCE_CHARS], exit_code=process.returncode)
    try:
        return VmImage.model_validate_json(output)
    except ValidationError as error:
        raise fault_error(FaultReason.DESKTOP_START_FAILED, f"the guest image cannot be read: {error}") from error


async def proof_kernel() -> Path | None:
    """Return a kernel that shows whether KVM works: our image's, else this machine's newest that can be read.

    None where there is neither: Ubuntu's kernels only root can read.
    """
    try:
        return (await find_image(None)).kernel
    except FaultError:
        kernels = [path for path in BOOT_FOLDER.glob("vmlinuz-*") if os.access(path, os.R_OK)]
        return max(kernels, key=lambda path: path.stat().st_mtime, default=None)
