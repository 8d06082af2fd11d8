"""A router's wish for a move: what is decided about it, and what it is answered."""

import asyncio
from dataclasses import replace

import pytest

from osworld_contract.registry import RegistryEntry
from osworld_operator.actions import Assign, Delete
from osworld_operator.decide import can_take, decide
from osworld_operator.view import PodView, PoolView, Wish
from osworld_operator.wishes import Wishes, entry

HOLDER = PodView("desks-0", 0, "u0", "1", 1.0, env_idx=0, epoch=4, is_ready=True, is_busy=True, address="10.0.0.1")
SPARE = PodView("desks-1", 1, "u1", "1", 2.0, is_ready=True, address="10.0.0.2")
WISH = Wish(0, "u0", 4)


def view(*pods: PodView, wishes: frozenset[Wish] = frozenset({WISH})) -> PoolView:
    return PoolView(replicas=1, spares=1, revision="", pods=pods, wishes=wishes)


def test_a_busy_env_that_a_router_turns_away_from_moves_for_good() -> None:
    assert decide(view(HOLDER, SPARE)) == [Assign(SPARE, 0, HOLDER, is_wished=True)]


def test_an_env_server_that_has_ended_comes_back_as_a_spare() -> None:
    down = replace(HOLDER, is_ready=False, is_down=True)
    assert decide(view(down, SPARE)) == [Assign(SPARE, 0, down, is_wished=False)]


@pytest.mark.parametrize("wish", [Wish(0, "u0", 3), Wish(0, "u9", 4), Wish(1, "u0", 4)])
def test_a_wish_of_somebody_who_does_not_know_the_present_moves_nothing(wish: Wish) -> None:
    assert decide(view(HOLDER, SPARE, wishes=frozenset({wish}))) == []


def test_without_a_spare_nothing_moves() -> None:
    assert not any(isinstance(action, Assign) for action in decide(view(HOLDER)))


def test_who_was_turned_away_from_goes_at_once_and_is_no_spare() -> None:
    retired = PodView("desks-0", 0, "u0", "2", 1.0, is_ready=True, is_retired=True, address="10.0.0.1")
    assert not can_take(retired)
    assert Delete(retired, is_at_once=True) in decide(view(retired, SPARE, wishes=frozenset()))


async def asked(wishes: Wishes, wish: Wish = WISH) -> "asyncio.Task[RegistryEntry | None]":
    task = asyncio.create_task(wishes.ask(wish))
    await asyncio.sleep(0)
    return task


async def test_a_wish_is_told_and_waits_for_a_round_that_has_seen_it() -> None:
    told: list[bool] = []
    wishes = Wishes(lambda: told.append(True))
    answer = await asked(wishes)
    assert told and wishes.open == frozenset({WISH})
    wishes.settle(view(HOLDER, SPARE, wishes=frozenset()), {}, frozenset())
    assert not answer.done()
    moved = entry(SPARE, 0, 5)
    wishes.settle(view(HOLDER, SPARE), {0: moved}, frozenset({0}))
    assert await answer == moved == RegistryEntry(env_idx=0, uid="u1", epoch=5, url="http://10.0.0.2:18082")
    assert not wishes.open


async def test_a_move_that_did_not_come_through_is_tried_again() -> None:
    wishes = Wishes(lambda: None)
    answer = await asked(wishes)
    wishes.settle(view(HOLDER, SPARE), {}, frozenset({0}))
    assert not answer.done() and wishes.open == frozenset({WISH})
    wishes.settle(view(HOLDER), {}, frozenset())
    assert await answer is None


async def test_an_older_wish_is_told_who_has_it_now() -> None:
    wishes = Wishes(lambda: None)
    older = Wish(0, "u7", 3)
    answer = await asked(wishes, older)
    wishes.settle(view(HOLDER, wishes=frozenset({older})), {}, frozenset())
    assert await answer == entry(HOLDER, 0, 4)


async def test_two_routers_get_one_move_and_who_gives_up_takes_nothing_from_the_other() -> None:
    wishes = Wishes(lambda: None)
    first, second = await asked(wishes), await asked(wishes)
    first.cancel()
    await asyncio.wait({first})
    assert wishes.open == frozenset({WISH})
    wishes.settle(view(HOLDER, SPARE), {0: entry(SPARE, 0, 5)}, frozenset({0}))
    assert await second == entry(SPARE, 0, 5)


async def test_who_gives_up_withdraws_the_wish() -> None:
    wishes = Wishes(lambda: None)
    answer = await asked(wishes)
    answer.cancel()
    await asyncio.wait({answer})
    assert not wishes.open


async def test_a_pool_that_is_gone_answers_no_spare() -> None:
    wishes = Wishes(lambda: None)
    answer = await asked(wishes)
    wishes.end()
    assert await answer is None
