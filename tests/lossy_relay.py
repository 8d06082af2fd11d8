"""A TCP relay in front of a real env server that loses connections on purpose, at a chosen point of a chosen call."""

import asyncio
from collections import Counter
from enum import Enum
from typing import Self

from osworld_contract.registry import RegistryEntry

CHUNK_BYTES = 65536


class Cut(Enum):
    """Where a connection is lost."""

    BEFORE_REQUEST = "before the request"
    MID_REQUEST = "in the middle of the request"
    AFTER_REQUEST = "while the call is carried out"
    BEFORE_REPLY = "after the call was carried out"
    MID_REPLY = "in the middle of the reply"
    HALF_CLOSE = "half-closed while the call is carried out"
    RESET = "reset while the call is carried out"
    WITHHELD = "the whole reply is kept back, until the caller goes"
    BLACKOUT = "nothing passes on any connection, until the caller gives up"


class _CutOff(Exception):
    """This connection is over."""


class LossyRelay:
    """Passes requests on one by one; `arm` it for the next call of a path."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._armed: dict[str, Cut] = {}
        self._is_light = asyncio.Event()
        self._is_light.set()
        self._open: set[asyncio.StreamWriter] = set()
        self.requests: Counter[str] = Counter()
        """Requests that came whole, by path."""
        self.done: Counter[Cut] = Counter()
        self.withheld = 0
        """Replies that the env server has sent and the caller has not got."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=4 * CHUNK_BYTES)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_light.set()
        self._server.close()
        for writer in self._open:
            writer.close()
        await asyncio.wait_for(self._server.wait_closed(), 10)

    def arm(self, path: str, cut: Cut) -> None:
        """Lose the next call of `path` by `cut`, and where its reply is withheld every further try of it."""
        self._armed[path] = cut

    def disarm(self, path: str) -> None:
        """Withhold nothing of `path` any more."""
        self._armed.pop(path, None)

    def entry(self, uid: str = "behind-the-relay", epoch: int = 1) -> RegistryEntry:
        return RegistryEntry(env_idx=0, uid=uid, epoch=epoch, url=f"http://127.0.0.1:{self.port}")

    def _cut_of(self, path: str) -> Cut | None:
        """Return what the call of `path` that has come is to lose."""
        cut = self._armed.get(path)
        if cut is not None:
            self.done[cut] += 1
        if cut is not Cut.WITHHELD:
            self._armed.pop(path, None)
        return cut

    async def _serve(self, caller: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        server, on = await asyncio.open_connection("127.0.0.1", self._target_port, limit=4 * CHUNK_BYTES)
        self._open |= {on, back}
        try:
            while True:
                await self._exchange(caller, back, server, on)
        except (_CutOff, asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            on.close()
            back.close()
            self._open -= {on, back}

    async def _exchange(
        self,
        caller: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        on: asyncio.StreamWriter,
    ) -> None:
        head = await caller.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1].decode().partition("?")[0]
        cut = self._cut_of(path)
        if cut is Cut.BEFORE_REQUEST:
            raise _CutOff
        body = await caller.readexactly(_length(head))
        if cut is Cut.MID_REQUEST:
            on.write(head + body[: len(body) // 2])
            await on.drain()
            raise _CutOff
        if cut is Cut.BLACKOUT:
            self._is_light.clear()
        elif path == "/livez":
            await self._is_light.wait()
        self.requests[path] += 1
        on.write(head + body)
        await on.drain()
        if cut is Cut.BLACKOUT:
            await self._darkness(caller)
        if cut is Cut.HALF_CLOSE:
            back.write_eof()
        elif cut is Cut.RESET:
            back.transport.abort()
        elif cut is Cut.AFTER_REQUEST:
            back.close()
        reply = await _reply(server)
        if cut is Cut.WITHHELD:
            self.withheld += 1
            await caller.read(1)
            raise _CutOff
        if cut in {Cut.HALF_CLOSE, Cut.RESET, Cut.AFTER_REQUEST, Cut.BEFORE_REPLY}:
            raise _CutOff
        back.write(reply if cut is None else reply[: len(reply) // 2])
        await back.drain()
        if cut is Cut.MID_REPLY:
            raise _CutOff

    async def _darkness(self, caller: asyncio.StreamReader) -> None:
        """Let nothing through until the caller has given up."""
        try:
            await caller.read(1)
        finally:
            self._is_light.set()
        raise _CutOff


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def _reply(server: asyncio.StreamReader) -> bytes:
    head = await server.readuntil(b"\r\n\r\n")
    return head + await server.readexactly(_length(head))
