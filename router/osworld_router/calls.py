"""A call to an env server as bytes. Pure: who is called, the head of a request, and the frames of its body."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

Headers = list[tuple[str, str]]

ORIGINS_KEPT: Final = 4096
"""Parsed URLs that are remembered; more than a pool has env servers."""

_PORTS: Final = {"http": 80, "https": 443}


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

    @property
    def has_length(self) -> bool:
        """Whether its own headers say how long its body is."""
        return any(name.lower() == "content-length" for name, _ in self.headers)


@dataclass(frozen=True)
class Origin:
    """Who is called."""

    host: str
    port: int
    is_tls: bool
    netloc: str
    """As it is written in a URL."""
    prefix: str
    """What comes before the path."""


@lru_cache(ORIGINS_KEPT)
def origin(url: str) -> Origin:
    """Return who is called at `url`.

    Raises:
        ValueError: It is no such URL.
    """
    parts = urlsplit(url)
    if parts.hostname is None or parts.scheme not in _PORTS:
        raise ValueError(f"{url!r} is no http address")
    netloc = parts.netloc.rpartition("@")[2]
    return Origin(
        parts.hostname, parts.port or _PORTS[parts.scheme], parts.scheme == "https", netloc, parts.path.rstrip("/")
    )


def request_head(call: Call, to: Origin, authorization: str | None) -> bytes:
    """Return the head of `call`.

    A body at hand is counted here; one that comes in pieces is as long as the caller's headers say, or chunked.

    Raises:
        ValueError: A part of it would end a line.
    """
    lines = [
        f"{call.method} {to.prefix}{call.path}{'?' if call.query else ''}{call.query} HTTP/1.1",
        f"Host: {to.netloc}",
    ]
    is_at_hand = call.body is None or isinstance(call.body, bytes)
    lines += [
        f"{name}: {value}" for name, value in call.headers if not (is_at_hand and name.lower() == "content-length")
    ]
    if authorization:
        lines.append(f"Authorization: {authorization}")
    if isinstance(call.body, bytes):
        lines.append(f"Content-Length: {len(call.body)}")
    elif call.body is None:
        if call.method != "GET":
            lines.append("Content-Length: 0")
    elif not call.has_length:
        lines.append("Transfer-Encoding: chunked")
    head = "\r\n".join(lines)
    ends = len(lines) - 1
    if head.count("\n") != ends or head.count("\r") != ends or "\0" in head:
        raise ValueError("a header of the call holds the end of a line")
    return f"{head}\r\n\r\n".encode("latin-1")


def framed(call: Call) -> bytes | AsyncIterator[bytes]:
    """Return the body of `call` as it is sent."""
    if call.body is None:
        return b""
    if isinstance(call.body, bytes) or call.has_length:
        return call.body
    return _chunked(call.body)


async def _chunked(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in body:
        if piece:
            yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"
