"""An env server that lost its env_idx in the middle of an episode, and has another one now: whose episode it is."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from chaos.player import FAIL, SCRIPTS
from osworld_contract.registry import RegistryEntry
from osworld_env import EnvClient
from router_rig import Router, ScriptedEnv, running_router
from server_process import ServerProcess, env_server, post
from tasks_of import INFEASIBLE, RENAME, task_config
from trainer_client import TrainerClient
from waiting import wait_until

pytestmark = pytest.mark.timeout(300)

SAYING = SCRIPTS[0]
SLOW_STEP = "Thought: type.\nAction: type(content='" + "x" * 60 + "')"
NOTICE_DEADLINE_S = 30.0

BEFORE = {"X-Env-Idx": "3", "X-Osworld-Epoch": "1"}
AFTER = {"X-Env-Idx": "5", "X-Osworld-Epoch": "2"}
OTHERS = [AFTER, {"X-Env-Idx": "5", "X-Osworld-Epoch": "1"}]
"""Epochs grow over all of a cluster's pool, and for each env_idx of a local one by itself."""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[ServerProcess]:
    with env_server(tmp_path) as process:
        yield process.wait_ready()


@pytest.fixture
def own_router(tmp_path: Path) -> Iterator[Router]:
    with running_router(tmp_path) as process:
        yield process


def play(server: ServerProcess, **headers: str) -> None:
    """Play an episode with the score 1 up to its evaluate."""
    assert post(server, "/env/reset", {"task_config": task_config(INFEASIBLE[0])}, **headers).status_code == 200
    assert post(server, "/env/step", {"prediction": FAIL}, **headers).json()["is_done"]


@pytest.mark.parametrize("is_evaluated", [False, True], ids=["over", "evaluated"])
@pytest.mark.parametrize("others", OTHERS, ids=["cluster", "local"])
def test_an_episode_is_of_the_env_idx_that_began_it(
    own_server: ServerProcess, is_evaluated: bool, others: dict[str, str]
) -> None:
    play(own_server, **BEFORE)
    if is_evaluated:
        assert post(own_server, "/env/evaluate", **BEFORE).json() == 1.0
    evaluated = post(own_server, "/env/evaluate", **others)
    assert (evaluated.status_code, evaluated.json()["fault"]["reason"]) == (503, "no_episode")
    step = post(own_server, "/env/step", {"prediction": FAIL}, **others)
    said = step.json()
    assert (step.status_code, said["fault"]["reason"], said["fault"]["masked"]) == (200, "no_episode", True)
    assert (said["obs_messages"], said["is_done"], said["format_reward"]) == (None, True, 0.0)
    numbered = {"X-Osworld-Step": "3", "X-Osworld-Client": "v2"}
    refused = post(own_server, "/env/step", {"prediction": FAIL}, **numbered, **others)
    assert refused.json()["fault"]["reason"] == "no_episode", "by which a router knows that it can be played again"
    assert post(own_server, "/env/history_messages", **others).json() == {"history_messages": []}
    assert httpx.get(own_server.url + "/journal", headers=others).status_code == 204
    assert post(own_server, "/env/evaluate").json() == 1.0, "who is no router means whatever is here"


def test_a_key_is_of_its_env_idx_as_well(own_server: ServerProcess) -> None:
    """Clients may name their calls alike: reset-1, reset-2."""
    key = {"Idempotency-Key": "reset-1"}
    play(own_server, **BEFORE, **key)
    body = {"task_config": task_config(RENAME)}
    assert post(own_server, "/env/reset", body, **AFTER, **key).status_code == 200
    assert post(own_server, "/env/evaluate", **AFTER).json() == 0.0, "of the task that was reset to"


def test_a_reset_waits_for_the_call_of_an_env_idx_that_is_not_here_any_more(own_server: ServerProcess) -> None:
    body = {"task_config": task_config(RENAME)}
    assert post(own_server, "/env/reset", body, **BEFORE).status_code == 200
    with ThreadPoolExecutor(1) as thread:
        late = thread.submit(post, own_server, "/env/step", {"prediction": SLOW_STEP}, **BEFORE)
        wait_until(lambda: "step_parse" in own_server.log, NOTICE_DEADLINE_S, "the step to begin")
        reply = post(own_server, "/env/reset", body, **AFTER)
        assert reply.status_code == 200, "a refusal would be the end of this trainer's batch"
        assert late.result().status_code == 200


def entry(server: ServerProcess, env_idx: int, epoch: int) -> RegistryEntry:
    return RegistryEntry(env_idx=env_idx, uid=f"uid-{server.port}", epoch=epoch, url=server.url)


@pytest.mark.parametrize("is_evaluated", [False, True], ids=["over", "evaluated"])
async def test_an_unmodified_trainer_never_gets_the_score_of_another_task(
    own_server: ServerProcess, own_router: Router, is_evaluated: bool
) -> None:
    """Of its own episode no router knows enough to have it played again: its desktop has a network."""
    async with ScriptedEnv() as lost:
        await own_router.route(entry(own_server, 3, 1), lost.entry(5, 2))
        trainer = TrainerClient(f"{own_router.url}/envs/3")
        assert (await asyncio.to_thread(trainer.reset, task_config(INFEASIBLE[0]))).is_legal
        assert (await asyncio.to_thread(trainer.step, FAIL)).is_done
        if is_evaluated:
            assert await asyncio.to_thread(trainer.evaluate) == 1.0
        trainer = TrainerClient(f"{own_router.url}/envs/5")
        await asyncio.to_thread(trainer.reset, task_config(RENAME))
        await own_router.route(entry(own_server, 5, 3))
        reply = await asyncio.to_thread(trainer.step, FAIL)
        assert (reply.obs_messages, reply.is_done, reply.format_reward) == (None, True, 0.0)
        answer = await own_router.post("/envs/5/env/evaluate")
        assert (answer.status_code, answer.json()["fault"]["masked"]) == (503, True)
        assert not trainer.errors


async def test_an_episode_is_recovered_where_another_one_was_left(
    own_server: ServerProcess, other: ServerProcess, own_router: Router
) -> None:
    await own_router.route(entry(own_server, 3, 1), entry(other, 5, 2))
    with EnvClient(f"{own_router.url}/envs/3") as client:
        client.reset(task_config(INFEASIBLE[0]))
        client.step(FAIL)
    with EnvClient(f"{own_router.url}/envs/5") as client:
        client.reset(SAYING.task)
        for prediction in SAYING.predictions[:2]:
            assert client.step(prediction).fault is None
        other.stop()
        await own_router.route(entry(own_server, 5, 3))
        for prediction in SAYING.predictions[2:]:
            assert client.step(prediction).fault is None
        assert client.evaluate() == 1.0
