"""A scripted HTTP server for images, and disks that pass or fail the header check."""

import asyncio
import contextlib
import hashlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

CLUSTER_BYTES = 65536


def qcow2_disk(body_bytes: int = 3_000_000, *, version: int = 3, incompatible: int = 0, backing: int = 0) -> bytes:
    """Return bytes with the header of an empty qcow2 disk and a body that is all the same."""
    table, l1 = CLUSTER_BYTES, 2 * CLUSTER_BYTES
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", version, backing, 0, 16, 1 << 30, 0, 2, l1, table, 1, 0, 0
    )  # fmt: skip
    if version == 3:
        head += struct.pack(">QQQII", incompatible, 0, 0, 4, 104)
    return head.ljust(3 * CLUSTER_BYTES, b"\0") + b"x" * body_bytes


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class ImageServer:
    """Serves `data` at every path with ranges and a strong ETag, but for what `script` says of the next requests."""

    data: bytes
    url: str = ""
    etag: str = '"v1"'
    script: list[Handler] = field(default_factory=list)
    seen: list[web.Request] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ranges(self) -> list[str | None]:
        """Return the ranges that were asked for."""
        return [request.headers.get("Range") for request in self.seen]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        if self.script:
            return await self.script.pop(0)(request)
        return await self.whole(request)

    async def whole(self, request: web.Request) -> web.StreamResponse:
        """Answer as a good server."""
        offset = request.http_range.start or 0
        if request.headers.get("If-Range") not in (None, self.etag):
            offset = 0
        headers = {"ETag": self.etag}
        if offset >= len(self.data):
            return web.Response(status=416)
        if offset:
            headers["Content-Range"] = f"bytes {offset}-{len(self.data) - 1}/{len(self.data)}"
        return web.Response(status=206 if offset else 200, body=self.data[offset:], headers=headers)

    def first(self, count: int, *, then_stall: bool = False) -> Handler:
        """Return a handler that promises all and sends `count` bytes, then cuts the connection or falls silent."""

        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"ETag": self.etag, "Content-Length": str(len(self.data))})
            await response.prepare(request)
            await response.write(self.data[:count])
            if then_stall:
                await self.closing.wait()
            assert request.transport is not None
            request.transport.close()
            return response

        return handler


def status(code: int) -> Handler:
    """Return a handler that answers with `code`."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=code)

    return handler


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """Serve `handler` at every path on loopback, and give the address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def image_server(data: bytes) -> AsyncIterator[ImageServer]:
    """Give a running server of `data`."""
    server = ImageServer(data)
    async with serving(server.answer) as url:
        server.url = f"{url}/disk.qcow2"
        try:
            yield server
        finally:
            server.closing.set()
