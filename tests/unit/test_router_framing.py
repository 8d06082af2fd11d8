"""Heads and chunks of env servers' replies, in whatever pieces they come; and calls as bytes."""

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osworld_router.calls import Call, framed, origin, request_head
from osworld_router.errors import BadReply
from osworld_router.framing import HEAD_BYTES, Framing, ReplyReader

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(data) + 1) for place in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def read(pieces: list[bytes]) -> tuple[ReplyReader, bytes]:
    """Return the reader, and what came of the body: chunks taken apart, anything else as it is."""
    reader, body = ReplyReader(), b""
    for piece in pieces:
        rest = piece if reader.head else reader.feed_head(piece)
        if reader.head and rest:
            body += b"".join(reader.feed_chunks(rest)) if reader.head.framing is Framing.CHUNKED else rest
    return reader, body


@given(st.lists(st.integers(0, 10_000), max_size=12))
def test_a_counted_reply_is_the_same_however_it_is_cut(cuts: list[int]) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    reply = interim + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\n12345"
    reader, body = read(cut(reply, cuts))
    assert reader.head is not None
    assert (reader.head.status, reader.head.framing, reader.head.length) == (200, Framing.COUNTED, 5)
    assert reader.head.headers == ((b"Content-Length", b"5"), (b"X-A", b"b"))
    assert reader.head.keeps_alive
    assert body == b"12345"


@given(st.lists(st.integers(0, 10_000), max_size=12), st.sampled_from([b"", b"x", b"HTTP/1.1 200 OK\r\n\r\n"]))
def test_a_chunked_reply_is_the_same_however_it_is_cut(cuts: list[int], excess: bytes) -> None:
    reader, body = read(cut(CHUNKED + b"3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n" + excess, cuts))
    assert body == b"abc"
    assert reader.head is not None
    assert reader.head.headers == ((b"Transfer-Encoding", b"chunked"),)
    assert reader.is_complete
    assert reader.has_excess == bool(excess)


def test_chunks_that_are_none() -> None:
    reader, _ = read([CHUNKED])
    with pytest.raises(BadReply):
        reader.feed_chunks(b"nonsense\r\n")


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * HEAD_BYTES,
    ],
)
def test_heads_that_are_refused(start: bytes) -> None:
    with pytest.raises(BadReply):
        read([start])
    with pytest.raises(BadReply):
        read([start[place : place + 1] for place in range(len(start))])


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_replies_that_have_no_body(status: bytes) -> None:
    reader, _ = read([b"HTTP/1.1 " + status + b"\r\nContent-Length: 7\r\nA: b\r\n\r\n"])
    assert reader.head is not None
    assert (reader.head.framing, reader.head.length) == (Framing.COUNTED, 0)
    assert reader.head.headers == ((b"A", b"b"),)


def test_a_reply_that_only_its_end_ends() -> None:
    reader, _ = read([b"HTTP/1.1 200 OK\r\n\r\n"])
    assert reader.head is not None
    assert reader.head.framing is Framing.OPEN
    assert not reader.head.keeps_alive


def test_the_head_of_a_call() -> None:
    call = Call("POST", "/env/step", [("A", "b"), ("Content-Length", "9")], query="x=1", body=b"{}")
    assert request_head(call, origin("http://[::1]:8000"), "Bearer t") == (
        b"POST /env/step?x=1 HTTP/1.1\r\nHost: [::1]:8000\r\n"
        b"A: b\r\nAuthorization: Bearer t\r\nContent-Length: 2\r\n\r\n"
    )
    assert b"Content-Length: 0\r\n" in request_head(Call("POST", "/ack", []), origin("http://e"), None)
    assert b"ength" not in request_head(Call("GET", "/livez", []), origin("http://e"), None)


@pytest.mark.parametrize("value", ["a\r\nB: c", "a\n", "a\r", "a\0"])
def test_a_header_cannot_end_its_line(value: str) -> None:
    with pytest.raises(ValueError, match="end of a line"):
        request_head(Call("GET", "/", [("A", value)]), origin("http://e"), None)


def test_who_is_called() -> None:
    plain, tls = origin("http://user:secret@env.pool:15001/base/"), origin("https://[fd00::1]")
    assert (plain.host, plain.port, plain.is_tls, plain.netloc, plain.prefix) == (
        "env.pool", 15001, False, "env.pool:15001", "/base",
    )  # fmt: skip
    assert (tls.host, tls.port, tls.is_tls, tls.netloc) == ("fd00::1", 443, True, "[fd00::1]")
    with pytest.raises(ValueError, match="no http address"):
        origin("ftp://e")


async def test_a_body_in_pieces_is_as_long_as_its_caller_says_or_chunked() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"abc", b"", b"d" * 17):
            yield piece

    async def sent(call: Call) -> bytes:
        body = framed(call)
        assert not isinstance(body, bytes)
        return b"".join([piece async for piece in body])

    chunked = Call("POST", "/", [], body=pieces())
    assert request_head(chunked, origin("http://e"), None).endswith(b"Transfer-Encoding: chunked\r\n\r\n")
    assert await sent(chunked) == b"3\r\nabc\r\n11\r\n" + b"d" * 17 + b"\r\n0\r\n\r\n"
    counted = Call("POST", "/", [("content-length", "20")], body=pieces())
    assert request_head(counted, origin("http://e"), None).endswith(b"content-length: 20\r\n\r\n")
    assert await sent(counted) == b"abc" + b"d" * 17
