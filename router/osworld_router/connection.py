"""One connection to an env server: a call goes out, the head of its reply comes in, then its body, into a sink.

A body of a known length is received straight into the sink's memory: no copy of it is made here, and nothing is read
that the sink has no room for. Made for uvloop, in which `get_buffer`, the reading and `buffer_updated` are one step.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Protocol, cast

from osworld_router.errors import BadReply, TransferBroken, UpstreamError
from osworld_router.framing import Framing, Head, ReplyReader

SCRATCH_BYTES: Final = 16 * 1024
"""Read at once where no sink is there: a head, and the start of a body, which is copied once more."""

_SCRATCH: Final = memoryview(bytearray(SCRATCH_BYTES))
"""Of all connections: what is in it is taken out before the next one reads."""


class Sink(Protocol):
    """Takes a body."""

    def begin(self, connection: "Connection") -> None:
        """Note whom to tell when there is no room."""

    def room(self) -> memoryview:
        """Return where the next bytes go; never empty."""

    def filled(self, count: int) -> None:
        """Note that the first `count` bytes of the room are taken."""

    def put(self, data: bytes) -> None:
        """Take bytes that lie elsewhere."""


class Connection(asyncio.BufferedProtocol):
    """One connection, for one call at a time: `call`, `receive` until `is_complete`, and again."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._upload: asyncio.Task[None] | None = None
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._reader: ReplyReader | None = None
        self._head: Head | None = None
        self._sink: Sink | None = None
        self._early = b""
        self._left = 0
        self._error: BaseException | None = None
        self._is_open = True
        self._is_clean = True
        self._is_busy = False
        self.is_complete = False
        """Whether the whole reply has come."""
        self.idle_since = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether it can take a call: nothing is under way, and nothing came that nobody asked for."""
        is_open = self._is_open and not self._transport.is_closing()
        keeps_alive = self._head is None or self._head.keeps_alive
        return is_open and keeps_alive and self._is_clean and not self._is_busy and self._upload is None

    def rest(self) -> None:
        """Wait for the next call, and hear if the env server ends the connection."""
        self.idle_since = self._loop.time()
        self._transport.resume_reading()

    def close(self) -> None:
        """End it. Can be called twice."""
        if self._upload is not None:
            self._upload.cancel()
        self._is_open = False
        if self._transport.get_write_buffer_size():
            self._transport.abort()  # closing would wait until an env server that is lost has taken the rest
        else:
            self._transport.close()

    async def call(self, head: bytes, body: bytes | AsyncIterator[bytes]) -> Head:
        """Send a call, return the head of its reply. A body in pieces is framed already.

        Raises:
            UpstreamError: No usable head came.
        """
        self._reader, self._head, self._early = ReplyReader(), None, b""
        self._is_busy, self.is_complete = True, False
        if isinstance(body, bytes):
            self._transport.writelines((head, body) if body else (head,))
        else:
            self._transport.write(head)
            self._upload = self._loop.create_task(self._send(body))
        await self._wait()
        assert self._head is not None  # or the wait has failed
        return self._head

    async def receive(self, sink: Sink) -> None:
        """Put the body into `sink`, until it is complete or the sink says `stop`.

        Raises:
            TransferBroken: It ended before its end.
        """
        if self._error is not None:
            raise self._error
        if self.is_complete and not self._early:
            return
        self._sink = sink
        sink.begin(self)
        if self._early:
            early, self._early = self._early, b""
            sink.put(early)
        try:
            if not self.is_complete and self._sink is not None:
                self._transport.resume_reading()
                await self._wait()
        finally:
            self._sink = None

    def stop(self) -> None:
        """Return from `receive`: the sink is full."""
        self._transport.pause_reading()
        self._sink = None
        self._wake()

    def pause(self) -> None:
        """Read nothing until `resume`."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._sink is not None and self._is_open:
            self._transport.resume_reading()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class

    def connection_lost(self, error: Exception | None) -> None:
        """End what is under way."""
        self._is_open = False
        self._can_write.set()
        self._fail("the env server ended the connection", error)

    def eof_received(self) -> None:
        """Note that the env server has said all; the transport closes itself."""
        self._is_open = False
        if self._head is not None and self._head.framing is Framing.OPEN:
            self._complete()
        else:
            self._fail("the env server ended the connection", None)

    def pause_writing(self) -> None:
        """Let the upload wait."""
        self._can_write.clear()

    def resume_writing(self) -> None:
        """Let the upload go on."""
        self._can_write.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go.

        Never an empty one, which would kill the connection: uvloop asks once more after the last byte. Of a counted
        body there is room for one byte more than is due, so that one too many is seen.
        """
        if self._sink is None or self._head is None or self._head.framing is Framing.CHUNKED:
            return _SCRATCH
        room = self._sink.room()
        is_short = self._head.framing is Framing.COUNTED and self._left < len(room)
        return room[: self._left + 1] if is_short else room

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        if self._head is None:
            self._take_head(bytes(_SCRATCH[:nbytes]))
        elif self._sink is None:  # nobody waits for anything: it is no part of a reply
            self._is_clean = False
            self.close()
        elif self._head.framing is Framing.CHUNKED:
            self._take_chunks(bytes(_SCRATCH[:nbytes]))
        elif self._head.framing is Framing.OPEN:
            self._sink.filled(nbytes)
        else:
            self._is_clean = nbytes <= self._left
            due = min(nbytes, self._left)
            self._left -= due
            self._sink.filled(due)
            if not self._left:
                self._complete()

    def _take_head(self, data: bytes) -> None:
        if self._reader is None:  # nobody has called yet
            self._is_clean = False
            self.close()
            return
        try:
            data = self._reader.feed_head(data)
        except BadReply as error:
            self._fail(f"the env server answered {error}", error)
            return
        self._head = self._reader.head
        if self._head is None:
            return
        self._left = self._head.length
        if self._head.framing is Framing.COUNTED:
            self._is_clean = len(data) <= self._left
            self._early = data[: self._left]
            self._left -= len(self._early)
            if not self._left:
                self._complete()
        elif self._head.framing is Framing.CHUNKED and data:
            self._take_chunks(data)
        else:
            self._early = data
        if not self.is_complete and self._is_open:
            self._transport.pause_reading()
        self._wake()

    def _take_chunks(self, data: bytes) -> None:
        assert self._reader is not None  # there is a head
        try:
            pieces = self._reader.feed_chunks(data)
        except BadReply as error:
            self._fail(f"the env server answered {error}", error)
            return
        self._is_clean = self._is_clean and not self._reader.has_excess
        if self._sink is None:
            self._early = b"".join(pieces)
        elif pieces:
            self._sink.put(b"".join(pieces))  # in one: it may be the last that the sink takes
        if self._reader.is_complete:
            self._complete()

    def _complete(self) -> None:
        self._is_busy, self.is_complete = False, True
        self._wake()

    def _fail(self, why: str, cause: BaseException | None) -> None:
        """End the call that is under way, if one is."""
        if self._error is None and not self.is_complete:
            if self._head is None:
                name = type(cause).__name__ if cause else ""
                self._error = UpstreamError(f"no usable reply: {why}", phase="head", cause=name)
            else:
                self._error = TransferBroken(f"the reply broke off: {why}")
        self._is_open = False
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        """Return when something is to be told.

        Raises:
            UpstreamError: Before the head.
            TransferBroken: After it.
        """
        if self._error is None:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._error is not None:
            raise self._error

    async def _send(self, body: AsyncIterator[bytes]) -> None:
        """Send a body that comes in pieces, as fast as the env server takes it."""
        try:
            async for piece in body:
                if not self._is_open:
                    return
                self._transport.write(piece)
                await self._can_write.wait()
            self._upload = None
        except Exception as error:  # the body's own: who made it knows why, and the call cannot go on
            self._fail("the call's body broke off", error)
