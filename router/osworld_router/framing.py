"""The head of an env server's reply and how its body ends: bytes in, words out. Nothing here reads or writes.

llhttp reads heads and chunks (by way of httptools), strictly: what two readers could take for two things is refused.
Bodies of a known length do not come here: they are counted, and never copied into a parser.
"""

from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Final

import httptools

from osworld_router.errors import BadReply

HEAD_BYTES: Final = 64 * 1024
"""Longest head that is taken. A guess: heads of env servers have some 200 bytes."""

HEAD_END: Final = b"\r\n\r\n"

_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)
_BODYLESS: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class Framing(Enum):
    """What ends a body."""

    COUNTED = auto()
    """Its length, which may be 0."""
    CHUNKED = auto()
    """Its last chunk."""
    OPEN = auto()
    """The connection's end."""


@dataclass(frozen=True)
class Head:
    """The head of a final reply."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    """Names as they came."""
    framing: Framing
    length: int
    """Of a counted body, in bytes."""
    keeps_alive: bool
    """Whether the env server will take another call on this connection."""


class ReplyReader:
    """Reads one reply: `feed_head` until there is one, then `feed_chunks` if its body is chunked."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._tail = b""
        self._size_bytes = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_head_read = False
        self._chunks: list[bytes] = []
        self.head: Head | None = None
        self.is_complete = False
        """Whether the last chunk has come."""
        self.has_excess = False
        """Whether something came after it."""

    def feed_head(self, data: bytes) -> bytes:
        """Take what came, return what of it is body. Replies of 100 to 199 are read over.

        Raises:
            BadReply: It is no head, or one that could be misunderstood.
        """
        while self.head is None and data:
            found = (self._tail + data).find(HEAD_END)
            end = found + len(HEAD_END) - len(self._tail) if found >= 0 else len(data)
            self._size_bytes += end
            self._feed(data[:end])
            self._tail = b"" if found >= 0 else (self._tail + data)[1 - len(HEAD_END) :]
            data = data[end:]
            if found >= 0:
                self._end_head()
            elif self._size_bytes > HEAD_BYTES:
                raise BadReply(f"a head of more than {HEAD_BYTES} bytes")
        return data

    def feed_chunks(self, data: bytes) -> list[bytes]:
        """Take a piece of a chunked body, return what it holds.

        Raises:
            BadReply: It is no such thing.
        """
        self._chunks = []
        if self.is_complete:
            self.has_excess = True
            return []
        try:
            self._feed(data)
        except BadReply:
            if not self.is_complete:
                raise
            self.has_excess = True
        return self._chunks

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise BadReply(f"no HTTP: {error}") from error

    def _end_head(self) -> None:
        if not self._is_head_read:
            raise BadReply("an empty head")
        status, headers = self._parser.get_status_code(), tuple(self._headers)
        self._is_head_read, self._headers, self.is_complete = False, [], False
        if status not in _STATUSES:
            raise BadReply(f"status {status}")
        if status < HTTPStatus.OK:
            return
        if status in _BODYLESS:  # a length here is that of a body which does not come
            headers = tuple(pair for pair in headers if pair[0].lower() != b"content-length")
        framing, length = _framing(status, headers)
        self.head = Head(status, headers, framing, length, self._parser.should_keep_alive())

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Note a second reply, for which nobody asked."""
        self.has_excess = self.has_excess or self.head is not None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers are dropped."""
        if self.head is None:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Note the head's end."""
        self._is_head_read = True

    def on_body(self, data: bytes) -> None:
        """Take a piece of a chunk."""
        if not self.has_excess:
            self._chunks.append(data)

    def on_message_complete(self) -> None:
        """Note the reply's end."""
        self.is_complete = True


def _framing(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> tuple[Framing, int]:
    """Return what ends the body, and its length if it is counted.

    Raises:
        BadReply: It has an encoding that would be passed on as if it had none.
    """
    lengths = [value for name, value in headers if name.lower() == b"content-length"]
    encodings = [value.strip().lower() for name, value in headers if name.lower() == b"transfer-encoding"]
    if status in _BODYLESS:
        return Framing.COUNTED, 0
    if encodings == [b"chunked"]:
        return Framing.CHUNKED, 0
    if encodings:
        raise BadReply(f"transfer-encoding {encodings}")
    if lengths:
        return Framing.COUNTED, int(lengths[0])  # one, and digits alone: the parser has seen to it
    return Framing.OPEN, 0
