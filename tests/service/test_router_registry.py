"""The registry of a running router: what is taken over, what is kept."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from router_rig import V2, Router, ScriptedEnv, fault_of
from waiting import wait_for


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    with Router(tmp_path, OSWORLD_ROUTER_RESET_TIMEOUT_S="2") as process:
        yield process.wait_ready("/livez")


async def test_the_file_may_come_later(router: Router) -> None:
    reply = await router.get("/readyz")
    assert fault_of(reply) == (503, "env_down")
    assert fault_of(await router.post("/env/reset")) == (503, "env_down")
    async with ScriptedEnv() as env:
        await router.route(env.entry())
        assert (await router.get("/readyz")).status_code == 200
        assert (await router.post("/env/reset")).status_code == 200
    assert router.log.count("is not there yet") == 1


async def test_changes_are_picked_up(router: Router) -> None:
    async with ScriptedEnv() as first, ScriptedEnv() as second:
        await router.route(first.entry(0), second.entry(1))
        await router.route(second.entry(0, epoch=2))
        assert (await router.post("/envs/0/env/step")).status_code == 200
        assert (len(first.calls), len(second.calls)) == (0, 1)
        # env 1 has been in the pool: it is away, and not a mistake of the client's
        assert fault_of(await router.post("/envs/1/env/step", headers=V2)) == (503, "env_down")
        assert fault_of(await router.post("/envs/2/env/step", headers=V2)) == (404, "unknown_env")


async def test_what_is_no_registry_leaves_the_last_good_state(router: Router) -> None:
    async with ScriptedEnv() as env:
        await router.route(env.entry())
        for broken in ('{"envs": [', '{"envs": [{"env_idx": -1}]}', "\x00"):
            router.registry_path.write_text(broken)
            await wait_for(lambda: "is not a registry" in router.log, 30, "the complaint")
            assert (await router.post("/env/step")).status_code == 200
        router.registry_path.unlink()
        await wait_for(lambda: router.log.count("is gone") == 1, 30, "the complaint")
        assert (await router.post("/env/step")).status_code == 200
        await router.route(env.entry(), env.entry(1))


async def test_a_call_waits_for_an_env_that_is_just_coming(tmp_path: Path) -> None:
    with Router(tmp_path, OSWORLD_ROUTER_ENV_WAIT_S="30") as patient:
        patient.write()
        patient.wait_ready()
        async with ScriptedEnv() as env:
            waiting = asyncio.create_task(patient.post("/envs/1/env/step"))
            await patient.route(env.entry(0))
            assert not waiting.done()
            await patient.route(env.entry(0), env.entry(1))
            assert (await waiting).status_code == 200
