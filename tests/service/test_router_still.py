"""Recoveries of desktops that stand still between calls: the pauses are not waited for again, and refuse nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from osworld_contract.replay import HEADER_SIGHT, REPLAY_PATH, EpisodeJournal, Mark, ReplayReply, ReplayRequest, Sight
from osworld_contract.wire import ResetRequest
from router_rig import STEP_REPLY, V2, Received, Router, Script, ScriptedEnv, running_router, whole

STEP_TIMEOUT_S = 3.0
THINKING_S = 3.5
"""Longer than a call may take in all."""

EPISODE, WINDOWS = "e" * 32, "d" * 32
TASK = {"instruction": "do", "evaluator": {"func": "infeasible"}}


def playing(stands_still: bool, steps: int = 0) -> Script:
    """Return a script that answers resets, steps and replays of an episode that may be played again."""

    async def script(request: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal steps
        if request.path == REPLAY_PATH:
            steps = len(json.loads(request.body)["steps"])
            writer.write(whole(ReplayReply(episode_id=EPISODE, predictions=steps).model_dump_json().encode()))
        else:
            steps = 0 if request.path == "/env/reset" else steps + 1
            mark = Mark(EPISODE, steps, can_evaluate_again=True, windows=WINDOWS, stands_still=stands_still)
            writer.write(whole(STEP_REPLY, **{HEADER_SIGHT: mark.header}))
        await writer.drain()

    return script


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[Router]:
    with running_router(tmp_path, OSWORLD_ROUTER_STEP_TIMEOUT_S=f"{STEP_TIMEOUT_S:g}") as process:
        yield process


async def step(router: Router) -> httpx.Response:
    return await router.post("/envs/0/env/step", content=b'{"prediction": "x"}', headers=V2)


def replayed(heir: ScriptedEnv) -> ReplayRequest:
    [request] = [request for request in heir.received if request.path == REPLAY_PATH]
    return ReplayRequest.model_validate_json(request.body)


@pytest.mark.parametrize("stands_still", [True, False])
async def test_what_the_agent_thought_is_no_time_of_a_desktop_that_stands_still(
    hasty: Router, stands_still: bool
) -> None:
    async with ScriptedEnv(playing(stands_still)) as lost, ScriptedEnv(playing(stands_still)) as heir:
        await hasty.route(lost.entry())
        reset = await hasty.post("/envs/0/env/reset", content=json.dumps({"task_config": TASK}).encode(), headers=V2)
        assert reset.status_code == 200
        await asyncio.sleep(THINKING_S)  # the agent's thinking is what is tested
        assert (await step(hasty)).status_code == 200
        await hasty.route(heir.entry(epoch=2))
        reply = await step(hasty)
        if stands_still:
            assert reply.status_code == 200, reply.text
            request = replayed(heir)
            assert [request.pause_s, *(step.pause_s for step in request.steps)] == [0, 0]
        else:
            assert reply.json()["fault"]["evidence"]["recovery"] == "no_time"


async def test_a_router_that_starts_is_told_that_a_desktop_stands_still(hasty: Router) -> None:
    seen = Sight(windows=WINDOWS, screen_b64=None)
    step_made = {"pause_s": 1000, "call": {"prediction": "x"}, "key": "k", "seen": seen.model_dump()}
    begun = ReplayRequest.model_validate(
        {"call": ResetRequest(task_config=TASK).model_dump(), "seen": seen.model_dump(), "steps": [step_made]}
    )
    said = EpisodeJournal(
        episode_id=EPISODE,
        can_evaluate_again=True,
        stands_still=True,
        may_be_evaluated=False,
        idle_s=1000,
        took_s=(0.1, 0.1),
        episode=begun,
    )
    journal = whole(said.model_dump_json().encode())
    async with ScriptedEnv(playing(True, 1), journal=journal) as lost, ScriptedEnv(playing(True)) as heir:
        await hasty.route(lost.entry())
        assert (await step(hasty)).status_code == 200
        assert "its episode is known again" in hasty.log
        await hasty.route(heir.entry(epoch=2))
        assert (await step(hasty)).status_code == 200
        request = replayed(heir)
        assert [request.pause_s, *(step.pause_s for step in request.steps)] == [0, 0, 0]
