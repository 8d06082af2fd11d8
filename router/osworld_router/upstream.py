"""Calls to env servers: the one module that opens connections to them.

A reply is handed out as it comes, in the bytes in which it comes: nothing is decompressed, parsed or followed.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

import aiohttp
from yarl import URL

from osworld_contract.registry import RegistryEntry
from osworld_router.errors import TransferBroken, UpstreamError

KEEP_ALIVE_S: Final = 3.0
"""Idle connections are closed by us after so long. Below the 5 s after which uvicorn, under the env server, closes
them: a POST on a connection that is just being closed fails, and could not be sent again safely."""

SNIPPET_BYTES: Final = 64 * 1024
"""Most that is read of a reply whose body the router wants for itself."""

_KNOWN_STATUSES: Final = frozenset(int(status) for status in HTTPStatus if status >= HTTPStatus.OK)

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Call:
    """One call to an env server."""

    method: str
    path: str
    headers: Headers
    query: str = ""
    body: bytes | AsyncIterator[bytes] | None = None
    token: str | None = None
    """The bearer to show in place of the one for env servers."""


class UpstreamReply:
    """The reply of an env server, whose head has come."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Iterable[tuple[bytes, bytes]] = response.raw_headers

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes.

        In the pieces in which the socket gave it: joining them costs as much again as all the rest of a 1.7 MB reply.

        Raises:
            TransferBroken: It ended before its length, or the connection broke.
        """
        try:
            async for chunk, _ in self._response.content.iter_chunks():
                if chunk:
                    yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise TransferBroken(f"the env server broke off its reply: {type(error).__name__}") from error

    async def snippet(self) -> bytes:
        """Return the start of the body, up to `SNIPPET_BYTES`.

        Raises:
            TransferBroken: As `chunks` does.
        """
        start = bytearray()
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                start += chunk
                if len(start) >= SNIPPET_BYTES:
                    break
        return bytes(start[:SNIPPET_BYTES])


class Upstream:
    """Keeps connections to env servers. An async context manager; usable inside it only."""

    def __init__(self, connect_timeout_s: float, token: str | None) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._authorization = f"Bearer {token}" if token else None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def send(self, entry: RegistryEntry, call: Call) -> AsyncIterator[UpstreamReply]:
        """Send `call` to the env server of `entry`; the context is its reply, and ends the connection if left early.

        There is no deadline here but the one of connecting: the caller sets it.

        Raises:
            UpstreamError: No usable head of a reply came.
        """
        assert self._session is not None, "used outside its context"
        headers = list(call.headers)
        if authorization := f"Bearer {call.token}" if call.token else self._authorization:
            headers.append(("Authorization", authorization))
        url = URL(f"{entry.url}{call.path}{'?' if call.query else ''}{call.query}", encoded=True)
        try:
            response = await self._session.request(
                call.method, url, headers=headers, data=call.body, allow_redirects=False
            )
        except aiohttp.ClientConnectorError as error:
            raise UpstreamError(
                "the env server cannot be connected to", phase="connect", cause=type(error).__name__
            ) from error
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise UpstreamError(
                f"the env server did not take a connection within {self._connect_timeout_s:g} s",
                phase="connect",
                cause=type(error).__name__,
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamError(
                "the env server ended the connection without a usable reply", phase="head", cause=type(error).__name__
            ) from error
        try:
            if response.status not in _KNOWN_STATUSES:
                raise UpstreamError(f"the env server answered status {response.status}", phase="head")
            yield UpstreamReply(response)
        finally:
            response.close() if not response.content.is_eof() else response.release()

    async def post(self, entry: RegistryEntry, path: str, headers: Headers, timeout_s: float) -> int | None:
        """Return the status of a call without a body, None where no reply came within `timeout_s`."""
        reply = await self.exchange(entry, Call("POST", path, headers), timeout_s)
        return reply[0] if reply else None

    async def is_alive(self, entry: RegistryEntry, timeout_s: float) -> bool:
        """Return whether the env server of `entry` answers anything at all within `timeout_s`."""
        return await self.read(entry, "/livez", timeout_s) is not None

    async def read(self, entry: RegistryEntry, path: str, timeout_s: float) -> bytes | None:
        """Return the start of what `path` of an env server holds, None where no reply came within `timeout_s`."""
        reply = await self.exchange(entry, Call("GET", path, []), timeout_s)
        return reply[1] if reply else None

    async def exchange(self, entry: RegistryEntry, call: Call, timeout_s: float) -> tuple[int, bytes] | None:
        """Return status and start of the body of a short reply, None where none came within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s), self.send(entry, call) as reply:
                return reply.status, await reply.snippet()
        except (TimeoutError, UpstreamError, TransferBroken):
            return None
