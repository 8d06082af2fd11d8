"""Images of this node: each is fetched once, by whoever holds its lock, and appears in one step when it is verified.

In the store's folder each address (with its hash) has a folder: ``lock``, ``part`` and ``part.json`` while it is
fetched, ``draft`` while it is unpacked, and ``image``, which is only ever whole.
"""

import asyncio
import fcntl
import hashlib
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from osworld_contract.faults import FaultError
from osworld_envpod.images.address import FileAddress, HttpAddress, OciAddress, S3Address
from osworld_envpod.images.blocking import StopFlag, in_thread
from osworld_envpod.images.download import Download
from osworld_envpod.images.errors import invalid, os_fault, unavailable
from osworld_envpod.images.oci import OciSource
from osworld_envpod.images.part import Part, digest_of, sync
from osworld_envpod.images.progress import Progress, Show, show_nothing
from osworld_envpod.images.qcow2 import check_disk
from osworld_envpod.images.request import ImageRequest
from osworld_envpod.images.s3 import resolve_s3
from osworld_envpod.images.target import Resolve, Target
from osworld_envpod.images.unpack import DISK, is_zip, unpack

DIGEST: Final = "disk.sha256"
LOCK_CHECK_S: Final = 0.2
READ_ONLY: Final = 0o444

logger = logging.getLogger(__name__)


async def fetch_image(request: ImageRequest, show: Show = show_nothing) -> Path:
    """Return the folder of the image; fetch it where it is not there yet.

    In it are ``disk.qcow2``, ``disk.sha256`` and, where the image has them, ``vmlinuz`` and ``initrd.img``.
    A folder's address is that folder, unchecked.

    Raises:
        FaultError: ``image_unavailable``, ``image_invalid`` or ``disk_full``. No half image is left under its name.
    """
    shown = request.address.shown
    try:
        async with asyncio.timeout(request.limits.total_s):
            if isinstance(request.address, FileAddress) and await asyncio.to_thread(request.address.path.is_dir):
                return request.address.path
            return await _kept(request, Progress(shown, show))
    except TimeoutError as error:
        raise unavailable(
            f"the image {shown} was not there in {request.limits.total_s:g} s; what was fetched of it is kept"
        ) from error
    except OSError as error:
        raise os_fault(error, shown) from error


async def _kept(request: ImageRequest, progress: Progress) -> Path:
    folder = request.store / await asyncio.to_thread(_key, request)
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    image = folder / "image"
    if not await asyncio.to_thread(image.is_dir):
        async with _locked(folder, progress):
            if not await asyncio.to_thread(image.is_dir):  # whoever held the lock may have made it
                await _make(request, folder, progress)
    return image


def _key(request: ImageRequest) -> str:
    """Return the name of the image's folder. A local file's also depends on which file is at the path now."""
    address = request.address
    parts = [repr(address), request.sha256 or ""]
    if isinstance(address, FileAddress):
        try:
            status = address.path.stat()
        except FileNotFoundError as error:
            raise unavailable(f"there is no image {address.shown}") from error
        parts += [str(address.path.resolve()), str(status.st_ino), str(status.st_size), str(status.st_mtime_ns)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


@asynccontextmanager
async def _locked(folder: Path, progress: Progress) -> AsyncIterator[None]:
    """Hold the lock of the image; it ends with its holder's process. Meanwhile show how far the holder is."""
    part = Part(folder)
    with (folder / "lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress.update(part.size_bytes, part.origin().total_bytes, "fetched by another process")
                await asyncio.sleep(LOCK_CHECK_S)  # the kernel tells nobody when such a lock is free
        yield


async def _make(request: ImageRequest, folder: Path, progress: Progress) -> None:
    part, shown = Part(folder), request.address.shown
    source, wanted = part.path, request.sha256
    if isinstance(request.address, FileAddress):
        source = request.address.path.resolve()
    else:
        wanted = await _download(request, part, progress)
    try:
        await in_thread(lambda stop: _seal(Sealing(request, source, wanted, folder, progress), stop))
    except FaultError:
        part.remove()  # the next try must not go on with bytes that were refused
        raise
    part.remove()
    logger.info("image %s: verified, in %s", shown, folder)


async def _download(request: ImageRequest, part: Part, progress: Progress) -> str | None:
    """Complete `part` and return the hash that it must have, if one is known."""
    limits = request.limits
    async with httpx.AsyncClient(timeout=limits.stall_s, follow_redirects=True) as client:
        download = Download(request.address.shown, part, limits, progress)
        target = await download.run(client, _resolver(request), is_pinned=request.sha256 is not None)
    if request.sha256 is None and target.sha256 is None:
        logger.warning("image %s: taken as it came; OSWORLD_IMAGE_SHA256 would verify it", request.address.shown)
    if request.sha256 and target.sha256 and request.sha256 != target.sha256:
        raise invalid(f"the image {request.address.shown} has the hash {target.sha256}, not {request.sha256}")
    return request.sha256 or target.sha256


def _resolver(request: ImageRequest) -> Resolve:
    address = request.address
    if isinstance(address, S3Address):
        access = request.s3
        assert access is not None  # whoever asks for such an address gives it
        return lambda client: resolve_s3(address, access)
    if isinstance(address, OciAddress):
        return OciSource(address).resolve
    assert isinstance(address, HttpAddress)

    async def resolve(_: httpx.AsyncClient) -> Target:
        return Target(address.url)

    return resolve


@dataclass(frozen=True)
class Sealing:
    """A whole file that is to become an image."""

    request: ImageRequest
    source: Path
    wanted: str | None
    """The SHA-256 that it must have."""
    folder: Path
    progress: Progress

    def report(self, have_bytes: int, total_bytes: int) -> None:
        """Show how far the unpacking is."""
        self.progress.update(have_bytes, total_bytes, "unpacked")


def _seal(job: Sealing, stop: StopFlag) -> None:
    """Verify the source, build the image in ``draft``, and make it ``image`` in one step."""
    shown = job.request.address.shown
    digest = digest_of(job.source, stop)
    if job.wanted is not None and digest != job.wanted:
        raise invalid(f"the image {shown} has the wrong hash: {digest}, not {job.wanted}")
    draft = job.folder / "draft"
    shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
    draft.mkdir()
    try:
        digest = _place(job, draft, digest, stop)
    except ValueError as error:
        raise invalid(f"the image {shown} is refused: {error}") from error
    finally:
        if not (draft / DIGEST).exists():  # an unpacked disk that was given up is of no use to anybody
            shutil.rmtree(draft, ignore_errors=True)
    for path in [*draft.iterdir(), draft]:
        sync(path)
    draft.rename(job.folder / "image")
    sync(job.folder)


def _place(job: Sealing, draft: Path, digest: str, stop: StopFlag) -> str:
    """Put the image's files into `draft` and return the disk's hash.

    Raises:
        ValueError: This is no image, or one that is refused.
    """
    disk = draft / DISK
    if is_zip(job.source):
        digest = unpack(job.source, draft, job.request.limits.disk_max_bytes, stop, job.report)
        check_disk(disk)
    else:
        check_disk(job.source)
        if job.source.parent == job.folder:
            job.source.rename(disk)
        else:
            disk.symlink_to(job.source)
    for path in draft.iterdir():
        if not path.is_symlink():
            path.chmod(READ_ONLY)
    (draft / DIGEST).write_text(f"{digest}  {DISK}\n")
    return digest
