"""Where the body of a reply goes: kept until it is wanted, or straight to the client.

Each byte is received into a block and sent from there: nothing is copied on its way but the first bytes, which come
with the head.
"""

from typing import Final

from osworld_router.asgi import Wire
from osworld_router.blocks import Blocks
from osworld_router.connection import Connection

Pieces = list[bytes | memoryview]

CRUMB_BYTES: Final = 1024
"""A chunk that is shorter is copied once more. A guess: an object and its place in a list take some 60 bytes."""


class Held:
    """Keeps a body, up to a limit, where it stops. Used as a context manager, it gives its memory back."""

    def __init__(self, blocks: Blocks, limit_bytes: int) -> None:
        self._blocks = blocks
        self._limit_bytes = limit_bytes
        self._taken: list[memoryview] = []
        self._pieces: Pieces = []
        self._start = self._end = 0
        self.size_bytes = 0

    @property
    def pieces(self) -> Pieces:
        """What has come. Good until `release`."""
        if self._end > self._start:
            self._pieces.append(self._taken[-1][self._start : self._end])
            self._start = self._end
        return self._pieces

    def release(self) -> None:
        """Give the memory back. Nothing may read the pieces any more."""
        for block in self._taken:
            self._blocks.give_back(block)
        self._taken, self._pieces = [], []
        self._start = self._end = 0

    def begin(self, connection: Connection) -> None:
        """Start, or go on."""
        self._connection = connection

    def room(self) -> memoryview:
        """Return the rest of the last block, or a new one."""
        if not self._taken or self._end == len(self._taken[-1]):
            self._pieces = self.pieces
            self._taken.append(self._blocks.take())
            self._start = self._end = 0
        return self._taken[-1][self._end :]

    def filled(self, count: int) -> None:
        """Take `count` bytes of the room."""
        self._end += count
        self._count(count)

    def put(self, data: bytes) -> None:
        """Take bytes that lie elsewhere: crumbs into the block, so that each is not an object of its own."""
        if self._pieces and len(data) < CRUMB_BYTES:
            left = data
            while left:
                room = self.room()
                count = min(len(room), len(left))
                room[:count] = left[:count]
                self._end += count
                left = left[count:]
        else:
            self.pieces.append(data)
        self._count(len(data))

    def _count(self, count: int) -> None:
        self.size_bytes += count
        if self.size_bytes > self._limit_bytes:
            self._connection.stop()


class Passed:
    """Sends a body on to a client as it comes, and lets the env server wait while the client is slow."""

    def __init__(self, block: memoryview, wire: Wire) -> None:
        self._block = block
        self._wire = wire

    def begin(self, connection: Connection) -> None:
        """Start."""
        self._connection = connection
        self._wire.on_change(self._go_on)

    def end(self) -> None:
        """Let go of the wire. Can be called twice."""
        self._wire.on_change(None)

    def room(self) -> memoryview:
        """Return the block: what was in it has left."""
        return self._block

    def filled(self, count: int) -> None:
        """Send `count` bytes of the block on."""
        self.put(self._block[:count])

    def put(self, data: bytes | memoryview) -> None:
        """Send bytes on."""
        self._wire.write((data,))
        if self._wire.is_clogged:
            self._connection.pause()

    def _go_on(self) -> None:
        """Note that all that was written has left, or that the client has gone."""
        if self._wire.is_gone:
            self._connection.stop()
        else:
            self._connection.resume()
