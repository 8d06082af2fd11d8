"""Calls whose connection is lost between router and env server: tried again, and nothing is done twice."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from chaos.player import SCRIPTS
from lossy_relay import Cut, LossyRelay
from osworld_contract.faults import FaultBody, FaultReason, fault_error
from router_rig import (
    STEP_REPLY,
    Received,
    Router,
    ScriptedEnv,
    answering,
    breaking_off_after,
    fault_of,
    hang_after,
    head,
    routed_env,
    running_router,
    whole,
)
from server_process import ServerProcess
from waiting import wait_for

SAYING = SCRIPTS[0]
EPISODE_LINES = {"Reset OK:": 1, "step_parse: ok": len(SAYING.predictions), "Evaluation completed:": 1}
"""How often an env server that carries everything out once says so."""

STEP_RETRY_S = 2.0
RESET_DEADLINE_S = 6.0


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A router with its own times."""
    with running_router(tmp_path_factory.mktemp("patient")) as process:
        yield process


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Router]:
    """A router that gives up soon."""
    times = {
        "OSWORLD_ROUTER_RETRY_S": f"{STEP_RETRY_S:g}",
        "OSWORLD_ROUTER_RESET_TIMEOUT_S": f"{RESET_DEADLINE_S:g}",
    }
    with running_router(tmp_path, **times) as process:
        yield process


@pytest.fixture
async def env(hasty: Router) -> AsyncIterator[ScriptedEnv]:
    async with routed_env(hasty) as scripted:
        yield scripted


async def episode(router: Router, relay: LossyRelay, cut: Cut, *, only: str = "") -> float:
    """Play an episode with each call's connection lost once, and return its score."""

    async def call(path: str, body: object) -> httpx.Response:
        if not only or only == path:
            relay.arm(path, cut)
        reply = await client.post(path, json=body)
        assert reply.status_code == 200, reply.text[:500]
        return reply

    async with router.client() as client:
        client.timeout = httpx.Timeout(300)
        first = (await call("/env/reset", {"task_config": SAYING.task})).json()
        assert len(first["obs_messages"]) == 3
        for number, prediction in enumerate(SAYING.predictions, 1):
            step = (await call("/env/step", {"prediction": prediction})).json()
            assert "fault" not in step, step["fault"]
            is_last = number == len(SAYING.predictions)
            assert step["is_done"] is is_last
            assert is_last or len(step["obs_messages"]) == 3 + 2 * number
        return float((await call("/env/evaluate", {})).json())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("cut", [cut for cut in Cut if cut not in {Cut.BLACKOUT, Cut.WITHHELD}])
async def test_each_call_is_lost_once_and_everything_is_done_once(
    patient: Router, server: ServerProcess, cut: Cut
) -> None:
    seen = len(server.log)
    async with LossyRelay(server.port) as relay:
        await patient.route(relay.entry())
        assert await episode(patient, relay, cut) == SAYING.score
        assert relay.done[cut] == len(SAYING.predictions) + 2
    said = server.log[seen:]
    assert {line: said.count(line) for line in EPISODE_LINES} == EPISODE_LINES


@pytest.mark.timeout(300)
async def test_a_network_that_goes_dark_in_a_step(patient: Router, server: ServerProcess) -> None:
    seen = len(server.log)
    async with LossyRelay(server.port) as relay:
        await patient.route(relay.entry())
        assert await episode(patient, relay, Cut.BLACKOUT, only="/env/step") == SAYING.score
        assert relay.done[Cut.BLACKOUT] == len(SAYING.predictions)
    said = server.log[seen:]
    assert {line: said.count(line) for line in EPISODE_LINES} == EPISODE_LINES


async def test_every_attempt_is_the_same_call_and_is_counted(hasty: Router, env: ScriptedEnv) -> None:
    async def lost_twice(request: Received, writer: asyncio.StreamWriter) -> None:
        is_lost = len(env.calls) < 3
        await (breaking_off_after(head(content_length=99)) if is_lost else answering(whole(STEP_REPLY)))(
            request, writer
        )

    env.script = lost_twice
    reply = await hasty.post("/env/step", b'{"prediction": "x"}')
    assert reply.content == STEP_REPLY
    assert len({(call.body, call.one("Idempotency-Key")) for call in env.calls}) == 1
    metrics = (await hasty.get("/metrics")).text
    assert 'osworld_router_retries_total{operation="step",reason="env_down"} 2.0' in metrics
    assert "code=200 attempts=3" in hasty.log


@pytest.mark.parametrize("path", ["/env/step", "/env/evaluate", "/env/history_messages"])
async def test_a_lost_call_ends_in_a_masked_fault(hasty: Router, env: ScriptedEnv, path: str) -> None:
    env.script = breaking_off_after(b"")
    began = time.monotonic()
    reply = await hasty.post(path)
    assert time.monotonic() - began > STEP_RETRY_S
    assert fault_of(reply) == (200 if path == "/env/step" else 503, "env_down")
    assert reply.json()["fault"]["masked"]
    assert len(env.calls) > 2


@pytest.mark.parametrize("path", ["/env/step", "/env/evaluate"])
async def test_nothing_but_a_reset_goes_to_another_env_server(hasty: Router, env: ScriptedEnv, path: str) -> None:
    async with ScriptedEnv() as heir:

        async def die(request: Received, writer: asyncio.StreamWriter) -> None:
            await hasty.route(heir.entry(epoch=2))
            await breaking_off_after(b"")(request, writer)

        env.script = die
        assert fault_of(await hasty.post(path))[1] == "env_down"
        assert (len(env.calls), len(heir.calls)) == (1, 0)


async def test_a_reset_goes_on_at_the_heir_of_its_env_idx(hasty: Router, env: ScriptedEnv) -> None:
    async with ScriptedEnv() as heir:

        async def die(request: Received, writer: asyncio.StreamWriter) -> None:
            hasty.write()  # as `up` does when an env server ends, and its successor is not there yet
            await breaking_off_after(b"")(request, writer)

        env.script = die
        reset = asyncio.create_task(hasty.post("/env/reset"))
        await wait_for(lambda: hasty.log.count("no env server has env_idx 0"), 20, "attempts without an env server")
        hasty.write(heir.entry(epoch=2))
        assert (await reset).content == STEP_REPLY
        assert heir.calls[0].one("Idempotency-Key") == env.calls[0].one("Idempotency-Key")


@pytest.mark.parametrize(
    ("reason", "attempts"),
    [
        (FaultReason.DESKTOP_START_FAILED, 4), (FaultReason.ENV_DRAINING, 4), (FaultReason.SETUP_FAILED, 3),
        (FaultReason.SETUP_MODULE_MISSING, 1), (FaultReason.IMAGE_INVALID, 1), (FaultReason.BAD_TASK, 1),
    ],
)  # fmt: skip
async def test_which_faults_of_an_env_server_a_reset_outlives(
    hasty: Router, env: ScriptedEnv, reason: FaultReason, attempts: int
) -> None:
    fault = fault_error(reason, operation="reset").fault
    body = FaultBody.of(fault).model_dump_json().encode()

    async def fail_thrice(request: Received, writer: asyncio.StreamWriter) -> None:
        refusal = whole(body, f"{fault.status} No", X_Osworld_Fault=fault.header)
        await answering(refusal if len(env.calls) < 4 else whole(STEP_REPLY))(request, writer)

    env.script = fail_thrice
    reply = await hasty.post("/env/reset")
    assert len(env.calls) == attempts
    if attempts == 4:
        assert reply.content == STEP_REPLY
    else:
        assert fault_of(reply) == (fault.status, reason)
        assert reply.json()["fault"] == json.loads(fault.model_dump_json())


async def test_a_reset_ends_by_its_deadline_with_what_kept_it(hasty: Router, env: ScriptedEnv) -> None:
    env.script = breaking_off_after(b"")
    began = time.monotonic()
    assert fault_of(await hasty.post("/env/reset")) == (503, "env_down")
    assert time.monotonic() - began >= RESET_DEADLINE_S


async def test_a_client_that_goes_ends_the_attempts(patient: Router) -> None:
    async with ScriptedEnv(breaking_off_after(b"")) as env:
        await patient.route(env.entry())
        _, writer = await asyncio.open_connection("127.0.0.1", patient.port)
        writer.write(b"POST /env/reset HTTP/1.1\r\nHost: r\r\nContent-Length: 2\r\n\r\n{}")
        await wait_for(lambda: len(env.calls) > 2, 20, "attempts")
        writer.close()
        await wait_for(lambda: "code=client_gone attempts=" in patient.log, 20, "the end of the call")


async def test_a_reply_too_long_to_be_held_is_passed_on_as_it_comes(hasty: Router, env: ScriptedEnv) -> None:
    size, go_on = 40 * 1024 * 1024, asyncio.Event()

    async def in_two_parts(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head(content_length=size) + b"x" * (size - 1))
        await writer.drain()
        await go_on.wait()
        writer.write(b"x")
        await writer.drain()

    env.script = in_two_parts
    got = 0
    async with hasty.client() as client, client.stream("POST", "/env/step", content=b"{}") as reply:
        async for chunk in reply.aiter_raw():
            got += len(chunk)
            go_on.set()
    assert got == size


async def test_a_deadline_that_comes_first_is_named(tmp_path: Path) -> None:
    with Router(tmp_path, OSWORLD_ROUTER_STEP_TIMEOUT_S="1") as router:
        router.write()
        router.wait_ready()
        async with ScriptedEnv(hang_after(b"")) as env:
            await router.route(env.entry())
            assert fault_of(await router.post("/env/step")) == (200, "env_timeout")
