"""Calls to env servers: the one module through which they are made.

A reply is handed out as it comes, in the bytes in which it comes: nothing is decompressed, parsed or followed.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

from pydantic import ValidationError

from osworld_contract.registry import RegistryEntry
from osworld_contract.wire import EnvState
from osworld_router.asgi import Wire
from osworld_router.blocks import Blocks
from osworld_router.calls import Call, Headers, framed, origin, request_head
from osworld_router.connection import Connection, Sink
from osworld_router.errors import TransferBroken, UpstreamError
from osworld_router.framing import Framing, Head
from osworld_router.lines import Lines
from osworld_router.sinks import Held, Passed

SNIPPET_BYTES: Final = 64 * 1024
"""Most that is read of a reply whose body the router wants for itself."""

__all__ = ["Call", "Headers", "Upstream", "UpstreamReply"]


class UpstreamReply:
    """The reply of an env server, whose head has come."""

    def __init__(self, connection: Connection, head: Head, blocks: Blocks) -> None:
        self._connection = connection
        self._blocks = blocks
        self.status = head.status
        self.headers: Iterable[tuple[bytes, bytes]] = head.headers
        self.length = head.length if head.framing is Framing.COUNTED else None
        """Of the body in bytes, None where only its end will tell."""

    @property
    def is_complete(self) -> bool:
        """Whether all of it has come."""
        return self._connection.is_complete

    async def receive(self, sink: Sink) -> None:
        """Put the body into `sink`, until it is complete or the sink stops.

        Raises:
            TransferBroken: It ended before its length, or the connection broke.
        """
        await self._connection.receive(sink)

    async def hold(self, limit_bytes: int) -> Held:
        """Return the body if it has no more than `limit_bytes`, else the start of it.

        Raises:
            TransferBroken: As `receive` does.
        """
        held = Held(self._blocks, limit_bytes)
        if self.length is None or self.length <= limit_bytes:
            await self.receive(held)
        return held

    async def pass_on(self, wire: Wire) -> None:
        """Send the body to a client as it comes; ends early where the client has gone.

        Raises:
            TransferBroken: As `receive` does.
        """
        block = self._blocks.take()
        passed = Passed(block, wire)
        try:
            await self.receive(passed)
            await wire.drained()
        finally:
            passed.end()
        if not wire.is_gone:  # else the transport may still hold it
            self._blocks.give_back(block)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes.

        Raises:
            TransferBroken: As `receive` does.
        """
        is_last = False
        while not is_last:
            held = Held(self._blocks, 0)
            await self.receive(held)
            is_last = self.is_complete
            for piece in held.pieces:
                yield bytes(piece)
            held.release()

    async def snippet(self) -> bytes:
        """Return the start of the body, up to `SNIPPET_BYTES`.

        Raises:
            TransferBroken: As `receive` does.
        """
        held = Held(self._blocks, SNIPPET_BYTES)
        await self.receive(held)
        start = b"".join(held.pieces)[:SNIPPET_BYTES]
        held.release()
        return start


class Upstream:
    """Makes calls, and keeps connections. An async context manager; usable inside it only."""

    def __init__(self, connect_timeout_s: float, token: str | None) -> None:
        self._authorization = f"Bearer {token}" if token else None
        self._lines = Lines(connect_timeout_s)
        self.blocks = Blocks()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()

    @asynccontextmanager
    async def send(self, entry: RegistryEntry, call: Call) -> AsyncIterator[UpstreamReply]:
        """Send `call` to the env server of `entry`; the context is its reply, and ends the connection if left early.

        There is no deadline here but the one of connecting: the caller sets it.

        Raises:
            UpstreamError: No usable head of a reply came.
        """
        try:
            to = origin(entry.url)
            head = request_head(call, to, f"Bearer {call.token}" if call.token else self._authorization)
        except ValueError as error:
            raise UpstreamError(f"the call cannot be sent: {error}", phase="connect", cause="ValueError") from error
        connection = await self._lines.take(to)
        try:
            yield UpstreamReply(connection, await connection.call(head, framed(call)), self.blocks)
        finally:
            self._lines.give_back(to, connection)

    async def post(self, entry: RegistryEntry, path: str, headers: Headers, timeout_s: float) -> int | None:
        """Return the status of a call without a body, None where no reply came within `timeout_s`."""
        reply = await self.exchange(entry, Call("POST", path, headers), timeout_s)
        return reply[0] if reply else None

    async def is_alive(self, entry: RegistryEntry, timeout_s: float) -> bool:
        """Return whether the env server of `entry` answers anything at all within `timeout_s`."""
        return await self.read(entry, "/livez", timeout_s) is not None

    async def state(self, entry: RegistryEntry, timeout_s: float) -> EnvState | None:
        """Return what the env server of `entry` says of its episode, None where it does not within `timeout_s`."""
        text = await self.read(entry, "/state", timeout_s)
        try:
            return EnvState.model_validate_json(text) if text is not None else None
        except ValidationError:
            return None

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
