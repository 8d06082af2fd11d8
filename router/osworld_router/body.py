"""The body of a request on its way to an env server: passed on as it comes, within a limit, never parsed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_router.asgi import Receive
from osworld_router.errors import ClientGone
from osworld_router.resolve import Request

REPLAYABLE_BYTES: Final = 1024 * 1024
"""Bodies up to this are read whole before the env server is asked, so that they can be sent a second time. A guess: a
step has some 10 kB, a task some 100 kB. Longer ones are streamed and sent once."""

DISCARD_S: Final = 5.0
"""How long the rest of a body that is refused is read, so that its sender gets to reading the refusal. A guess."""


@dataclass(frozen=True)
class BodyLimits:
    """What a client may send."""

    size_bytes: int
    idle_s: float


class RequestBody:
    """One request's body. Read it with `prefetch`, then `data`; each byte is taken from the client once."""

    def __init__(self, request: Request, receive: Receive, limits: BodyLimits) -> None:
        self._receive = receive
        self._limits = limits
        self._length = _declared_length(request)
        self._expects_continue = bool(request.values("expect"))
        self._start = b""
        self._received_bytes = 0
        self._complete = asyncio.Event()
        self.error: FaultError | ClientGone | None = None
        """Why the body could not be read to its end, if so: the call upstream ends as if the env server had failed."""

    @property
    def is_replayable(self) -> bool:
        """Whether the whole body is at hand, so that it can be sent again."""
        return self._complete.is_set() and len(self._start) == self._received_bytes

    async def prefetch(self) -> None:
        """Read up to `REPLAYABLE_BYTES`, or all of it if there is less.

        Raises:
            FaultError: ``client/body_too_large``, or ``client/bad_request`` where the client fell silent.
            ClientGone: The client closed its connection before the end.
        """
        if self._length is not None and self._length > self._limits.size_bytes:
            await self._refuse()
        parts: list[bytes] = []
        while not self._complete.is_set() and self._received_bytes < REPLAYABLE_BYTES:
            parts.append(await self._next())
        self._start = b"".join(parts)

    def data(self) -> bytes | AsyncIterator[bytes]:
        """Return the body for the HTTP client: whole, or as a stream that can be read once."""
        return self._start if self.is_replayable else self._stream()

    async def client_gone(self) -> None:
        """Return when the client has closed its connection; nothing is said while its body is still coming."""
        await self._complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _stream(self) -> AsyncIterator[bytes]:
        yield self._start
        while not self._complete.is_set():
            yield await self._next()

    async def _next(self) -> bytes:
        try:
            return await self._take()
        except (FaultError, ClientGone) as error:
            self.error = error
            raise

    async def _take(self) -> bytes:
        try:
            async with asyncio.timeout(self._limits.idle_s):
                message = await self._receive()
        except TimeoutError as error:
            raise fault_error(
                FaultReason.BAD_REQUEST, f"the body did not arrive: nothing came for {self._limits.idle_s:g} s"
            ) from error
        if message["type"] == "http.disconnect":
            raise ClientGone("the client closed its connection in the middle of its body")
        chunk: bytes = message.get("body", b"")
        self._received_bytes += len(chunk)
        if self._received_bytes > self._limits.size_bytes:
            await self._refuse()
        if not message.get("more_body", False):
            self._complete.set()
        return chunk

    async def _refuse(self) -> None:
        """Raise ``client/body_too_large``, after giving the sender a while to finish sending.

        A connection that is closed with unread bytes is reset, and the client would see that instead of the reply.
        Who asked first (``Expect: 100-continue``) has not begun to send.
        """
        try:
            async with asyncio.timeout(0 if self._expects_continue else DISCARD_S):
                more = True
                while more:
                    message = await self._receive()
                    more = message["type"] != "http.disconnect" and message.get("more_body", False)
        except TimeoutError:
            pass
        raise fault_error(
            FaultReason.BODY_TOO_LARGE,
            f"the body is larger than {self._limits.size_bytes} bytes",
            limit_bytes=self._limits.size_bytes,
        )


def _declared_length(request: Request) -> int | None:
    values = request.values("content-length")
    return int(values[0]) if values and values[0].isdecimal() else None
