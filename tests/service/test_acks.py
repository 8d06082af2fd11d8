"""Acknowledged replies: what a router held when it died was seen by nobody, and has no score."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from lossy_relay import Cut, LossyRelay
from osworld_contract.registry import RegistryEntry
from router_rig import STEP_REPLY, Router, ScriptedEnv, answering, breaking_off_after, fault_of, head, routed_env, whole
from server_process import ServerProcess, post
from tasks_of import RENAME, task_config
from waiting import wait_for

FINISHED = "Thought: done.\nAction: finished(content='done')"
WAIT = "Thought: wait.\nAction: wait()"
BY_ROUTER = {"X-Osworld-Acks": "1"}
TASK = {"task_config": task_config(RENAME)}
EVALUATE: tuple[str, Any] = ("/env/evaluate", {})


def by_router(server: ServerProcess, path: str, body: Any, key: str) -> None:
    reply = post(server, path, body, **BY_ROUTER, **{"Idempotency-Key": key})
    assert reply.status_code == 200, reply.text[:500]


def acknowledge(server: ServerProcess, **headers: str) -> bool:
    return bool(post(server, "/ack", **headers).json()["acknowledged"])


def test_without_an_acknowledgement_there_is_no_score(server: ServerProcess) -> None:
    by_router(server, "/env/reset", TASK, "r1")
    began = time.monotonic()
    reply = post(server, *EVALUATE)
    assert time.monotonic() - began > 1.5, "it may still be on its way"
    assert (reply.status_code, reply.json()["fault"]["reason"]) == (503, "reply_lost")
    assert acknowledge(server, **{"Idempotency-Key": "r1"})
    by_router(server, "/env/step", {"prediction": FINISHED}, "s1")
    assert not acknowledge(server, **{"Idempotency-Key": "r1"}), "that is the reply before"
    assert post(server, *EVALUATE).json()["fault"]["reason"] == "reply_lost"
    assert acknowledge(server, **{"Idempotency-Key": "s1"})
    assert post(server, *EVALUATE).json() == 0.0


def test_evaluates_wait_for_an_acknowledgement_that_is_on_its_way(server: ServerProcess) -> None:
    by_router(server, "/env/reset", TASK, "r2")
    seen = len(server.log)
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(post, server, *EVALUATE) for _ in range(3)]
        while server.log[seen:].count("POST /env/evaluate received") < 3:
            assert not any(call.done() for call in waiting)
        assert acknowledge(server, **{"Idempotency-Key": "r2"})
        assert [call.result().json() for call in waiting] == [0.0] * 3, "and none is refused for another's sake"


def test_a_numbered_step_is_acknowledged_by_its_number(server: ServerProcess) -> None:
    by_router(server, "/env/reset", TASK, "r3")
    post(server, "/env/step", {"prediction": FINISHED}, **BY_ROUTER, **{"X-Osworld-Step": "1"})
    assert acknowledge(server, **{"X-Osworld-Step": "1"})
    assert post(server, *EVALUATE).json() == 0.0


def test_a_client_that_says_what_it_has_seen_needs_no_acknowledgement(server: ServerProcess) -> None:
    by_router(server, "/env/reset", TASK, "r4")
    for headers in ({"X-Osworld-Seen": "r3"}, {"X-Osworld-Seen": "r3", "X-Osworld-Unseen": "1"}):
        assert post(server, "/env/evaluate", **headers).json()["fault"]["reason"] == "reply_lost"
    by_router(server, "/env/step", {"prediction": FINISHED}, "s4")
    assert post(server, *EVALUATE, **{"X-Osworld-Seen": "r4"}).json()["fault"]["reason"] == "reply_lost"
    assert post(server, *EVALUATE, **{"X-Osworld-Seen": "s4", "X-Osworld-Unseen": "1"}).json() == 0.0
    assert post(server, *EVALUATE, **{"X-Osworld-Seen": "r4"}).json()["fault"]["reason"] == "reply_lost", "nor later"


def test_an_acknowledgement_of_nothing_is_refused(server: ServerProcess) -> None:
    assert post(server, "/ack").status_code == 422


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", ["/env/reset", "/env/step"])
async def test_a_router_that_dies_with_the_reply_leaves_no_score(
    server: ServerProcess, tmp_path: Path, path: str
) -> None:
    bodies = {"/env/reset": TASK, "/env/step": {"prediction": WAIT}}
    async with LossyRelay(server.port) as relay:
        with Router(tmp_path) as router:
            router.write(relay.entry())
            router.wait_ready()
            async with router.client() as client:
                client.timeout = httpx.Timeout(300)
                assert (await client.post("/env/reset", json=TASK)).status_code == 200
                relay.arm(path, Cut.WITHHELD)
                call = asyncio.create_task(client.post(path, json=bodies[path]))
                await wait_for(lambda: relay.withheld, 120, "the env server's reply")
                router.stop(signal.SIGKILL)
                with pytest.raises(httpx.HTTPError):
                    await call
        relay.disarm(path)
        with Router(tmp_path) as successor:
            successor.write(relay.entry())
            successor.wait_ready()
            reply = await successor.post("/env/evaluate")
            assert fault_of(reply) == (503, "reply_lost")
            assert reply.json()["fault"]["masked"]
            async with successor.client() as client:
                client.timeout = httpx.Timeout(300)
                assert (await client.post("/env/reset", json=TASK)).status_code == 200
                assert (await client.post("/env/evaluate", json={})).json() == 0.0


@pytest.mark.timeout(300)
async def test_a_router_that_has_just_started_gets_no_score_of_an_episode_it_has_not_seen(
    server: ServerProcess, tmp_path: Path
) -> None:
    """A client's reset may have been refused while no router listened: it would take the score for that task's."""
    entry = RegistryEntry(env_idx=0, uid="u", epoch=1, url=server.url)
    with Router(tmp_path) as router:
        router.write(entry)
        router.wait_ready()
        async with router.client() as client:
            client.timeout = httpx.Timeout(300)
            assert (await client.post("/env/reset", json=TASK)).status_code == 200
            assert (await client.post("/env/evaluate", json={})).json() == 0.0
    with pytest.raises(httpx.ConnectError):
        await router.post("/env/reset")
    with Router(tmp_path) as successor:
        successor.write(entry)
        successor.wait_ready()
        assert fault_of(await successor.post("/env/evaluate")) == (503, "reply_lost")
        async with successor.client() as client:
            client.timeout = httpx.Timeout(300)
            assert (await client.post("/env/reset", json=TASK)).status_code == 200
            assert (await client.post("/env/evaluate", json={})).json() == 0.0


@pytest.fixture
async def env(router: Router) -> AsyncIterator[ScriptedEnv]:
    async with routed_env(router) as scripted:
        yield scripted


async def test_resets_and_steps_are_acknowledged_under_their_key(router: Router, env: ScriptedEnv) -> None:
    for number, (path, headers) in enumerate(
        [("/env/reset", {}), ("/env/step", {}), ("/env/step", {"Idempotency-Key": "mine"})], 1
    ):
        assert (await router.post(path, headers=headers | {"X-Osworld-Acks": "0"})).content == STEP_REPLY
        await wait_for(lambda number=number: len(env.acks) == number, 20, "the acknowledgement")  # type: ignore[misc]
        assert env.calls[-1].one("X-Osworld-Acks") == "1"
        assert env.acks[-1].one("Idempotency-Key") == env.calls[-1].one("Idempotency-Key")
    await router.post("/env/step", headers={"X-Osworld-Step": "2"})
    await wait_for(lambda: len(env.acks) == 4, 20, "the acknowledgement")
    assert env.acks[-1].one("X-Osworld-Step") == "2"
    env.script = answering(whole(b"1.0"))
    assert (await router.post("/env/evaluate")).json() == 1.0
    assert not env.calls[-1].all("X-Osworld-Acks")
    assert 'osworld_router_acks_total{result="ok"}' in (await router.get("/metrics")).text
    assert len(env.acks) == 4


async def test_what_the_client_did_not_get_is_not_acknowledged(router: Router, env: ScriptedEnv) -> None:
    env.script = breaking_off_after(head(content_length=99))
    assert fault_of(await router.post("/env/step"))[1] == "env_down"
    size = 24 * 1024 * 1024
    env.script = answering(whole(b"x" * size))
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(b"POST /env/step HTTP/1.1\r\nHost: r\r\nContent-Length: 2\r\n\r\n{}")
    await reader.readexactly(1000)
    writer.transport.abort()
    await wait_for(lambda: "code=client_gone" in router.log, 20, "the end of the call")
    env.script = answering(whole(STEP_REPLY))
    assert (await router.post("/env/step")).content == STEP_REPLY
    await wait_for(lambda: env.acks, 20, "an acknowledgement")
    assert [ack.one("Idempotency-Key") for ack in env.acks] == [env.calls[-1].one("Idempotency-Key")]
