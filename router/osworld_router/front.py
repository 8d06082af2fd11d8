"""The client's side of the router: uvicorn's HTTP, and a way past ASGI for the bodies of replies."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from osworld_router.asgi import WIRE

HEAD_BYTES: Final = 64 * 1024
"""Most that is read of a request's head; the parser has no limit of its own. As much as h11 takes."""


class Front(HttpToolsProtocol):
    """One connection of a client. No byte waits outside of the kernel unknown: who sends is told when all has left."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Take over the transport."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        self.on_change: Callable[[], None] | None = None
        self._is_in_head = False
        self._head_bytes = 0

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who sends."""
        super().connection_lost(exc)
        self._changed()

    def resume_writing(self) -> None:
        """Tell who sends."""
        super().resume_writing()
        self._changed()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        super().data_received(data)
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The head of the request is longer than {HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._is_in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """Begin its reply."""
        super().on_headers_complete()
        self._is_in_head = False
        self.scope["state"][WIRE] = ClientWire(self, self.cycle)

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()


class ClientWire:
    """A `Wire`. It belongs to one reply: where requests are pipelined, the connection has got to later ones already."""

    def __init__(self, front: Front, cycle: RequestResponseCycle) -> None:
        self._front = front
        self._transport = front.transport
        self._cycle = cycle
        self.kept_back = b""

    @property
    def can_write(self) -> bool:
        """Whether the head of the reply is out, with the length of its body."""
        return self._cycle.response_started and self._cycle.chunked_encoding is False

    @property
    def is_clogged(self) -> bool:
        """Whether something that was written has not left yet."""
        return self._front.flow.write_paused

    @property
    def is_gone(self) -> bool:
        """Whether the client has closed its connection."""
        return self._cycle.disconnected or self._transport.is_closing()

    def write(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Send pieces of the body at once, but for its last byte; see `Wire`.

        Raises:
            RuntimeError: They are more than the reply's head has promised.
        """
        pieces = [piece for piece in pieces if piece]
        if self.is_gone or not pieces:
            return
        self._cycle.expected_content_length -= sum(map(len, pieces))
        if self._cycle.expected_content_length < 0:
            raise RuntimeError("a reply longer than its content-length")
        if not self._cycle.expected_content_length:
            self.kept_back = bytes(pieces[-1][-1:])
            pieces[-1] = pieces[-1][:-1]
            self._cycle.expected_content_length = 1
        self._transport.writelines(pieces)

    async def drained(self) -> None:
        """Return when the kernel has taken all that was written, or the client has gone."""
        await self._front.flow.drain()

    def cut(self) -> None:
        """End the client's connection at once, whatever has not left yet."""
        self._transport.abort()

    def on_change(self, callback: Callable[[], None] | None) -> None:
        """Have `callback` called when all has left, or the client has gone."""
        self._front.on_change = callback
