"""One file over HTTP into a `Part`: resumed where it broke off, given up when nothing comes any more."""

import asyncio
import logging
import re
from typing import Final

import httpx

from osworld_envpod.images.blocking import in_thread
from osworld_envpod.images.errors import invalid, unavailable
from osworld_envpod.images.part import BLOCK_BYTES, Origin, Part
from osworld_envpod.images.progress import Progress
from osworld_envpod.images.request import FetchLimits
from osworld_envpod.images.target import Resolve, Target

TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
RANGE_UNSATISFIABLE: Final = 416
WORDS: Final = {
    401: "asks for credentials",
    403: "forbids it to these credentials",
    404: "does not have it",
    410: "does not have it any more",
}
CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")

logger = logging.getLogger(__name__)


class _TryAgain(Exception):
    """A turn of the loop, not an error of its own: this try ended early; the next one may go on."""


class Download:
    """The download of one file."""

    def __init__(self, shown: str, part: Part, limits: FetchLimits, progress: Progress) -> None:
        self._shown = shown
        self._part = part
        self._limits = limits
        self._progress = progress

    async def run(self, client: httpx.AsyncClient, resolve: Resolve, *, is_pinned: bool) -> Target:
        """Complete the part, and return what it was loaded from.

        Args:
            client: Its time-outs are the stall deadline.
            resolve: Gives the address for each try.
            is_pinned: A hash will be compared, so a server need not say how long the file is.

        Raises:
            FaultError: ``image_unavailable`` or ``disk_full``; what is there stays for the next time.
            OSError: The part cannot be written.
        """
        failures = 0
        while True:
            before = self._part.size_bytes
            try:
                target = await resolve(client)
                await self._try(client, target, is_pinned=is_pinned or target.sha256 is not None)
            except (httpx.RequestError, _TryAgain) as error:
                why = self._words(error)
                failures = 0 if self._part.size_bytes > before else failures + 1
                if failures >= self._limits.attempts:
                    message = f"the image {self._shown} could not be fetched: {why}"
                    raise unavailable(message, {"tries": failures}) from error
            else:
                return target
            logger.warning("image %s: %s; going on from byte %d", self._shown, why, self._part.size_bytes)
            await asyncio.sleep(self._limits.retry_pause_s * 2 ** max(0, failures - 1))

    async def _try(self, client: httpx.AsyncClient, target: Target, *, is_pinned: bool) -> None:
        origin, offset = self._part.origin(), self._part.size_bytes
        is_other = origin.etag is None or target.sha256 not in (None, origin.etag)
        if is_other or (origin.total_bytes is not None and offset > origin.total_bytes):
            offset = 0
        if offset and offset == origin.total_bytes:
            return
        headers = {**target.headers, "Accept-Encoding": "identity"}
        if offset and origin.etag:
            headers["Range"] = f"bytes={offset}-"
            if target.sha256 is None:  # else it is the address's own content, which cannot change
                headers["If-Range"] = origin.etag
        async with client.stream("GET", target.url, headers=headers) as response:
            self._refuse(response)
            if response.status_code == httpx.codes.PARTIAL_CONTENT:
                total = _resumed_total(response, offset, origin)
            else:
                total = await self._begin(response, target, is_pinned=is_pinned)
            await self._receive(response, total)

    def _refuse(self, response: httpx.Response) -> None:
        """Raise what a status other than 200 and 206 means."""
        status, host = response.status_code, response.url.host
        if status in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise invalid(f"{host} sends the image {self._shown} in an encoding that was not asked for")
            return
        if status == RANGE_UNSATISFIABLE:
            self._part.remove()
            raise _TryAgain("the server has another file now")
        if status in TRANSIENT:
            raise _TryAgain(f"{host} answered {status}")
        words = WORDS.get(status, "refuses it")
        raise unavailable(f"the image {self._shown} cannot be had: {host} {words} ({status})", {"status": status})

    async def _begin(self, response: httpx.Response, target: Target, *, is_pinned: bool) -> int | None:
        total = _number(response.headers.get("Content-Length"))
        if total is None and not is_pinned:
            raise unavailable(
                f"{response.url.host} does not say how long the image {self._shown} is:"
                " set OSWORLD_IMAGE_SHA256, or a part of it could pass for the whole"
            )
        if total is not None and total > self._limits.disk_max_bytes:
            raise invalid(f"the image {self._shown} has {total} bytes, over {self._limits.disk_max_bytes}")
        etag = target.sha256 or response.headers.get("ETag")
        origin = Origin(etag=None if etag is None or etag.startswith("W/") else etag, total_bytes=total)
        await in_thread(lambda _: self._part.begin(origin, self._shown))
        return total

    async def _receive(self, response: httpx.Response, total: int | None) -> None:
        buffer = bytearray()
        have = self._part.size_bytes

        async def flush() -> None:
            nonlocal have
            data = bytes(buffer)
            buffer.clear()
            await in_thread(lambda _: self._part.append(data))
            have += len(data)
            self._progress.update(have, total, "fetched")

        try:
            async for chunk in response.aiter_raw():
                buffer += chunk
                if have + len(buffer) > (self._limits.disk_max_bytes if total is None else total):
                    buffer.clear()
                    raise invalid(f"the server sends more than the image {self._shown} can have")
                if len(buffer) >= BLOCK_BYTES:
                    await flush()
        finally:
            await flush()
        if total is not None and have < total:
            raise _TryAgain(f"{response.url.host} ended the reply at byte {have} of {total}")

    def _words(self, error: Exception) -> str:
        if isinstance(error, httpx.TimeoutException):
            return f"the server sent nothing for {self._limits.stall_s:g} s"
        return str(error) or type(error).__name__


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _resumed_total(response: httpx.Response, offset: int, origin: Origin) -> int | None:
    found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    total = _number(found[2]) if found else None
    if not offset or found is None or int(found[1]) != offset or total not in (None, origin.total_bytes):
        raise unavailable(f"{response.url.host} sent another part of the file than was asked for")
    return origin.total_bytes
