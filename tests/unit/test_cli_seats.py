"""Who has which env_idx: at the start, after an end with and without a spare, and under any order of events."""

import random

import pytest

from osworld_env.pool_plan import Server, next_server
from osworld_env.pool_seats import Seats


def server(slot: int, life: int = 1) -> Server:
    return Server(slot, f"u{slot}.{life}", 4000 + 10 * slot + life)


def seated(seats: Seats) -> list[tuple[int, int, str]]:
    return [(tenancy.env_idx, tenancy.epoch, tenancy.server.uid) for tenancy in seats.tenancies]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_a_pool_that_starts_looks_the_same_in_whichever_order(order: list[int]) -> None:
    seats = Seats(2)
    for slot in order:
        seats.came_up(server(slot))
    assert seated(seats) == [(0, 1, "u0.1"), (1, 1, "u1.1")]
    assert seats.spares == [server(2)]


def test_a_spare_takes_over_at_once_and_who_comes_back_is_a_spare() -> None:
    seats = Seats(2)
    for slot in range(3):
        seats.came_up(server(slot))
    moved = seats.ended(0)
    assert moved is not None
    assert (moved.env_idx, moved.epoch, moved.server) == (0, 2, server(2))
    assert moved.entry().url == server(2).url
    assert seats.spares == []
    assert seats.came_up(server(0, 2)) is None
    assert seats.spares == [server(0, 2)]
    assert seated(seats) == [(0, 2, "u2.1"), (1, 1, "u1.1")]


def test_a_move_is_for_who_knows_the_present_and_needs_a_spare() -> None:
    seats = Seats(1)
    seats.came_up(server(0))
    assert seats.move(0, "u0.1", 1) is None, "no spare"
    seats.came_up(server(1))
    assert seats.move(7, "u0.1", 1) is None, "no such env_idx"
    for stale in (("u9", 1), ("u0.1", 2)):
        unmoved = seats.move(0, *stale)
        assert unmoved is not None
        assert unmoved.server == server(0)
    moved = seats.move(0, "u0.1", 1)
    assert moved is not None
    assert (moved.server, moved.epoch) == (server(1), 2)
    assert seats.move(0, "u0.1", 1) == moved, "two routers that ask get one move"
    assert seats.spares == [server(0)], "until it has ended"


def test_without_a_spare_the_entry_stays_until_somebody_comes_up() -> None:
    seats = Seats(2)
    for slot in range(2):
        seats.came_up(server(slot))
    assert seats.ended(0) is None
    assert seats.ended(1) is None
    assert seated(seats) == [(0, 1, "u0.1"), (1, 1, "u1.1")]
    seats.came_up(server(1, 2))
    seats.came_up(server(0, 2))
    assert seated(seats) == [(0, 2, "u0.2"), (1, 2, "u1.2")]


def test_who_comes_up_first_takes_what_nobody_has() -> None:
    seats = Seats(2)
    for slot in range(3):
        seats.came_up(server(slot))
    seats.ended(2)
    seats.ended(1)
    seats.came_up(server(2, 2))
    assert seated(seats) == [(0, 1, "u0.1"), (1, 2, "u2.2")]


@pytest.mark.parametrize("seed", range(50))
def test_no_env_server_ever_has_two_env_idx_and_epochs_only_grow(seed: int) -> None:
    chance = random.Random(seed)
    envs = chance.randint(1, 4)
    slots = envs + chance.randint(0, 3)
    seats, living = Seats(envs), dict[int, Server]()
    epochs: dict[int, int] = {}
    for _ in range(200):
        slot = chance.randrange(slots)
        if slot in living:
            del living[slot]
            seats.ended(slot)
        else:
            living[slot] = next_server(slot, 4000)
            seats.came_up(living[slot])
        tenancies = seats.tenancies
        assert len({tenancy.server.uid for tenancy in tenancies}) == len(tenancies)
        for tenancy in tenancies:
            assert tenancy.epoch >= epochs.get(tenancy.env_idx, 1)
            epochs[tenancy.env_idx] = tenancy.epoch
        if len(tenancies) == envs:
            working = sum(tenancy.server in living.values() for tenancy in tenancies)
            assert working == min(envs, len(living)), "nobody idles while an env_idx is vacant"
