"""Where bodies go: every byte once and in order, whatever the pieces."""

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from osworld_router.blocks import BLOCK_BYTES, Blocks
from osworld_router.connection import Connection
from osworld_router.sinks import CRUMB_BYTES, Held

LENGTHS = st.sampled_from([1, 2, CRUMB_BYTES - 1, CRUMB_BYTES, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES])


class Flow:
    """Notes what a sink asks of its connection."""

    def __init__(self) -> None:
        self.stops: list[str] = []

    def stop(self) -> None:
        self.stops.append("stop")


def held(blocks: Blocks, limit_bytes: int) -> tuple[Held, Flow]:
    sink, flow = Held(blocks, limit_bytes), Flow()
    sink.begin(cast(Connection, flow))
    return sink, flow


@given(st.lists(st.tuples(st.booleans(), LENGTHS), max_size=12))
def test_what_was_put_and_what_was_received_stay_in_order(parts: list[tuple[bool, int]]) -> None:
    sink, _ = held(Blocks(), 1 << 30)
    sent = bytearray()
    for number, (is_put, length) in enumerate(parts):
        data = bytes([number % 256]) * length
        if is_put:
            sink.put(data)
        else:
            room = sink.room()
            assert room
            data = data[: len(room)]
            room[: len(data)] = data
            sink.filled(len(data))
        sent += data
        if number % 3 == 0:
            assert b"".join(sink.pieces) == sent, "looking changes nothing"
    assert b"".join(sink.pieces) == sent
    assert sink.size_bytes == len(sent)


def test_crumbs_are_not_objects_of_their_own() -> None:
    sink, _ = held(Blocks(), 1 << 30)
    for _ in range(100_000):
        sink.put(b"x")
    assert b"".join(sink.pieces) == b"x" * 100_000
    assert len(sink.pieces) < 5


def test_beyond_its_limit_it_stops() -> None:
    sink, flow = held(Blocks(), 10)
    sink.put(b"x" * 10)
    assert not flow.stops
    sink.put(b"x")
    assert flow.stops == ["stop"]


def test_its_memory_is_used_again() -> None:
    blocks = Blocks()
    sink, _ = held(blocks, 1 << 30)
    first = sink.room()
    sink.filled(BLOCK_BYTES)
    sink.room()
    sink.release()
    assert sink.pieces == []
    again = {id(blocks.take().obj), id(blocks.take().obj)}
    assert id(first.obj) in again
