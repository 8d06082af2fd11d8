"""The image that a virtual machine boots from: our own, found by the guest's own program, or one in a folder.

The guest is another part, so it is started and not imported.
"""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from osworld_contract.faults import FaultReason, fault_error
from osworld_envpod.images import ImageRequest, Show, fetch_image, show_nothing

FIND_DEADLINE_S: Final = 60.0
EVIDENCE_CHARS: Final = 1000


class VmImage(BaseModel):
    """Disk, kernel and initrd. None of them is ever written to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    disk: Path
    kernel: Path
    initrd: Path
    digest: str
    """SHA-256 of the disk."""


def image_in(folder: Path, shown: str) -> VmImage:
    """Return the image in `folder`, which has the files that ``osworld_guest.image`` makes. Faults say `shown`.

    Raises:
        FaultError: ``desktop_start_failed``: a file is missing.
    """
    names = ("disk.qcow2", "vmlinuz", "initrd.img", "disk.sha256")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise fault_error(FaultReason.DESKTOP_START_FAILED, f"OSWORLD_QEMU_IMAGE: {shown} has no {', '.join(missing)}")
    disk, kernel, initrd, digest = (folder.resolve() / name for name in names)
    return VmImage(disk=disk, kernel=kernel, initrd=initrd, digest=digest.read_text().split()[0])


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
