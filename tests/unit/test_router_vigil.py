"""The watch over one call."""

import asyncio

import pytest

from osworld_router.errors import ClientGone, EnvLost
from osworld_router.vigil import Vigil

INTERVAL_S = 0.02


async def never() -> None:
    await asyncio.Event().wait()


async def alive() -> bool:
    return True


async def dead() -> bool:
    return False


async def test_a_fast_call_starts_no_watch() -> None:
    async with Vigil(probe=dead, client_gone=never, interval_s=INTERVAL_S) as vigil:
        await asyncio.sleep(0)
    assert not vigil._watchers


async def test_a_lost_env_ends_the_call() -> None:
    with pytest.raises(EnvLost):
        async with Vigil(probe=dead, client_gone=never, interval_s=INTERVAL_S):
            await never()


async def test_one_answer_between_misses_keeps_the_call() -> None:
    answers = [False, False, True, False, False]
    done = asyncio.Event()

    async def sometimes() -> bool:
        if len(answers) == 1:
            done.set()
        return answers.pop(0) if answers else True

    async with asyncio.timeout(20), Vigil(probe=sometimes, client_gone=never, interval_s=INTERVAL_S):
        await done.wait()
    assert answers == [], "all misses were seen, and none ended the call"


async def test_a_client_that_goes_ends_the_call() -> None:
    async def gone() -> None:
        return

    with pytest.raises(ClientGone):
        async with Vigil(probe=alive, client_gone=gone, interval_s=INTERVAL_S):
            await never()


async def test_a_cancelled_call_stays_cancelled() -> None:
    async def call() -> None:
        async with Vigil(probe=alive, client_gone=never, interval_s=INTERVAL_S):
            await never()

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_call_comes_through() -> None:
    with pytest.raises(ValueError, match="of the call"):
        async with Vigil(probe=alive, client_gone=never, interval_s=INTERVAL_S):
            raise ValueError("of the call")


async def test_of_two_watches_the_outer_says_why_a_call_ended_that_both_end() -> None:
    async def gone() -> None:
        return

    with pytest.raises(ClientGone):
        async with Vigil(client_gone=gone, interval_s=INTERVAL_S), Vigil(probe=dead, interval_s=INTERVAL_S):
            await never()
