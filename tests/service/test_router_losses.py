"""Lost episodes as a router sees them: who is asked to play them again, and what is answered where that is refused."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from lost_episodes import TASK, journal_of, lose, playing
from osworld_contract.faults import SPECS, FaultKind, FaultReason
from osworld_contract.replay import REPLAY_PATH
from router_rig import STEP_REPLY, Router, ScriptedEnv, fault_of, running_router
from waiting import wait_for

ANOTHER: Final = "f" * 32
REFUSALS: Final = [reason for reason, spec in SPECS.items() if spec.kind is FaultKind.CLIENT and spec.status != 421]


@pytest.fixture
async def heir() -> AsyncIterator[ScriptedEnv]:
    async with ScriptedEnv(playing()) as scripted:
        yield scripted


async def test_a_replay_that_is_refused_becomes_no_format_penalty(router: Router) -> None:
    for reason in REFUSALS:
        async with ScriptedEnv(playing(refuses=reason)) as heir:
            await lose(router, heir)
            reply = await router.post("/env/step")
            assert fault_of(reply) == (200, "env_down"), reason
            assert (reply.json()["obs_messages"], reply.json()["format_reward"]) == (None, 0.0)
            assert reply.json()["fault"]["masked"]
            assert [call.path for call in heir.calls] == [REPLAY_PATH]


@pytest.mark.parametrize("reason", [FaultReason.STALE_EPOCH, FaultReason.WRONG_SERVER])
async def test_a_replay_goes_on_to_who_has_the_env_idx_now(
    router: Router, heir: ScriptedEnv, reason: FaultReason
) -> None:
    async with ScriptedEnv(playing(refuses=reason)) as stale:
        await lose(router, stale)
        step = asyncio.create_task(router.post("/env/step"))
        await wait_for(lambda: stale.calls, 20, "the replay")
        await asyncio.sleep(1)  # the registry lags: that the router waits for it, nothing tells
        await router.route(heir.entry(epoch=3))
        assert (await step).content == STEP_REPLY
    assert [call.path for call in heir.calls] == [REPLAY_PATH, "/env/step"]


async def test_an_episode_that_is_elsewhere_already_goes_on_there(router: Router, heir: ScriptedEnv) -> None:
    """Another router had it played again there, or began the next one: it must not be played over."""
    heir.script, heir.journal = playing(episode=ANOTHER), journal_of(ANOTHER, 0, idle_s=0.0)
    await lose(router, heir)
    for _ in range(2):
        assert (await router.post("/env/step")).content == STEP_REPLY
    assert [call.path for call in heir.calls] == ["/env/step"] * 2
    async with ScriptedEnv(playing()) as last:
        await router.route(last.entry(epoch=3))
        assert (await router.post("/env/step")).content == STEP_REPLY
        assert [call.path for call in last.calls] == [REPLAY_PATH, "/env/step"]
        assert len(json.loads(last.calls[0].body)["steps"]) == 2, "those that were made there"


async def test_what_is_left_of_an_older_episode_is_played_over(router: Router, heir: ScriptedEnv) -> None:
    heir.journal = journal_of(ANOTHER, 3, idle_s=100.0)
    await lose(router, heir)
    assert (await router.post("/env/step")).content == STEP_REPLY
    assert [call.path for call in heir.calls] == [REPLAY_PATH, "/env/step"]


async def test_where_nobody_has_the_env_idx_the_answer_comes_by_the_calls_deadline(
    tmp_path: Path, heir: ScriptedEnv
) -> None:
    with running_router(tmp_path, OSWORLD_ROUTER_STEP_TIMEOUT_S="3") as router:
        async with ScriptedEnv(playing()) as lost:
            await router.route(lost.entry())
            assert (await router.post("/env/reset", TASK)).status_code == 200
        reply = await router.post("/env/step")
        assert fault_of(reply) == (200, "env_down")
        assert reply.json()["fault"]["evidence"].get("recovery") == "no_spare", reply.text
        await router.route(heir.entry(epoch=2))
        assert (await router.post("/env/step")).content == STEP_REPLY, "it is not lost by that"
