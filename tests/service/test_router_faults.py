"""What the router makes of env servers that fail: each way ends in a reply or a cut connection, by its deadline."""

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest

from osworld_contract.faults import FaultBody, FaultReason, fault_error
from router_rig import (
    STEP_REPLY,
    V2,
    Received,
    Router,
    ScriptedEnv,
    answering,
    breaking_off_after,
    fault_of,
    hang_after,
    head,
    running_router,
    whole,
)
from waiting import wait_for

DEADLINE_S = 2.0
RESET_DEADLINE_S = 5.0
OPERATIONS = ["reset", "step", "evaluate", "history_messages"]


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A router that sends no call twice, but a reset within its deadline."""
    times = {f"OSWORLD_ROUTER_{name}_TIMEOUT_S": str(DEADLINE_S) for name in ("STEP", "PAGE")}
    times |= {"OSWORLD_ROUTER_RESET_TIMEOUT_S": str(RESET_DEADLINE_S), "OSWORLD_ROUTER_RETRY_S": "0"}
    with running_router(tmp_path_factory.mktemp("router"), **times) as process:
        yield process


def stale() -> bytes:
    fault = fault_error(FaultReason.STALE_EPOCH).fault
    return whole(FaultBody.of(fault).model_dump_json().encode(), "421 Misdirected Request")


def assert_ends_the_episode(reply: httpx.Response, reason: str, env_idx: int = 0) -> None:
    """Check the one form in which a v1 client's step may meet a fault."""
    assert fault_of(reply) == (200, reason)
    content = reply.json()
    assert content.pop("fault")["masked"] is True
    assert content == {"env_idx": env_idx, "obs_messages": None, "is_done": True, "format_reward": 0.0}


async def call(router: Router, operation: str, *, is_v2: bool = True) -> httpx.Response:
    return await router.post(f"/env/{operation}", headers=V2 if is_v2 else {})


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_nobody_listens(router: Router, operation: str) -> None:
    async with ScriptedEnv() as gone:
        entry = gone.entry()
    await router.route(entry)
    assert fault_of(await call(router, operation)) == (503, "env_down")
    v1 = await call(router, operation, is_v2=False)
    if operation == "step":
        assert_ends_the_episode(v1, "env_down")
    else:
        assert fault_of(v1) == (503, "env_down")


@pytest.mark.parametrize(
    "start",
    [b"", b"HTTP/1.1 20", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", head("999 Odd", content_length=0), head("200 OK")[:-2]],
)
async def test_no_usable_head(router: Router, env: ScriptedEnv, start: bytes) -> None:
    env.script = breaking_off_after(start)
    assert fault_of(await call(router, "evaluate", is_v2=False)) == (503, "env_down")
    assert fault_of(await call(router, "step")) == (503, "env_down")
    assert_ends_the_episode(await call(router, "step", is_v2=False), "env_down")
    assert len(env.calls) == 3


@pytest.mark.parametrize(
    "start",
    [
        head(content_length=1000) + b"1234",
        head(content_length=1000),
        head(transfer_encoding="chunked") + b"4\r\n1234\r\n",
    ],
)
async def test_a_reply_that_breaks_off_is_no_short_reply(router: Router, env: ScriptedEnv, start: bytes) -> None:
    env.script = breaking_off_after(start)
    assert fault_of(await call(router, "evaluate", is_v2=False)) == (503, "env_down")
    assert_ends_the_episode(await call(router, "step", is_v2=False), "env_down")
    with pytest.raises(httpx.RemoteProtocolError):
        await call(router, "history_messages", is_v2=False)


async def test_a_reply_that_hangs_in_the_middle_ends_at_the_deadline(router: Router, env: ScriptedEnv) -> None:
    env.script = hang_after(head(content_length=1000) + b"1234")
    assert_ends_the_episode(await call(router, "step", is_v2=False), "env_timeout")
    with pytest.raises(httpx.RemoteProtocolError):
        await call(router, "history_messages", is_v2=False)


async def test_a_reply_that_lies_about_its_length_is_whole_or_a_fault(router: Router, env: ScriptedEnv) -> None:
    for lie in (whole(STEP_REPLY) + b"and more", head(transfer_encoding="chunked") + b"4\r\n1234\r\nnonsense\r\n"):
        env.script = breaking_off_after(lie)
        reply = await call(router, "step")
        if reply.content != STEP_REPLY:
            assert fault_of(reply) == (503, "env_down")
    env.script = answering(whole(STEP_REPLY))
    assert (await call(router, "step")).content == STEP_REPLY


async def test_time_out(router: Router, env: ScriptedEnv) -> None:
    env.script = hang_after(b"")
    v2, v1, page = await asyncio.gather(
        call(router, "step"), call(router, "step", is_v2=False), router.get("/envs/0/state")
    )
    assert fault_of(v2) == (504, "env_timeout")
    assert_ends_the_episode(v1, "env_timeout")
    assert fault_of(page) == (504, "env_timeout")


async def test_an_env_that_lost_its_power_is_found_by_probes(router: Router, env: ScriptedEnv) -> None:
    env.is_cut_off = True
    started = asyncio.get_running_loop().time()
    assert fault_of(await call(router, "evaluate")) == (503, "env_down")
    assert asyncio.get_running_loop().time() - started < 30  # the deadline of an evaluate is 270 s
    assert env.is_dropped


async def test_a_call_that_takes_long_is_no_lost_env(router: Router, env: ScriptedEnv) -> None:
    async def after_some_probes(request: Received, writer: asyncio.StreamWriter) -> None:
        await wait_for(lambda: sum(r.path == "/livez" for r in env.received) > 2, 20, "probes")
        await answering(whole(b"1.0"))(request, writer)

    env.script = after_some_probes
    assert (await call(router, "evaluate")).content == b"1.0"


async def test_a_client_that_goes_lets_go_of_the_env(router: Router, env: ScriptedEnv) -> None:
    env.script = hang_after(b"")
    _, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(b"POST /env/reset HTTP/1.1\r\nHost: r\r\nContent-Length: 2\r\n\r\n{}")
    await wait_for(lambda: env.calls, 30, "the call at the env server")
    writer.close()
    await wait_for(lambda: env.is_dropped, 30, "the call to be dropped")
    await wait_for(
        lambda: "operation=reset env_idx=0" in router.log and "code=client_gone" in router.log, 30, "the log"
    )


async def test_a_client_that_goes_in_the_middle_of_its_body(router: Router, env: ScriptedEnv) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(b"POST /env/history_messages HTTP/1.1\r\nHost: r\r\nContent-Length: 200\r\n\r\n{}")
    writer.close()
    await wait_for(lambda: "operation=history env_idx=0 epoch=- uid=- code=client_gone" in router.log, 30, "the log")
    assert not env.calls


async def test_the_errors_of_an_env_server_in_a_v1_step_end_the_episode(router: Router, env: ScriptedEnv) -> None:
    fault = fault_error(FaultReason.DESKTOP_LOST, operation="step", signal=9).fault
    env.script = answering(whole(FaultBody.of(fault).model_dump_json().encode(), "503 Service Unavailable"))
    reply = await call(router, "step", is_v2=False)
    assert reply.json()["fault"] == json.loads(fault.model_dump_json())
    assert_ends_the_episode(reply, "desktop_lost")
    v2 = await call(router, "step")
    assert (v2.status_code, v2.json()["fault"]["reason"]) == (503, "desktop_lost")
    env.script = answering(whole(b"Internal Server Error", "500 Internal Server Error"))
    assert_ends_the_episode(await call(router, "step", is_v2=False), "env_down")
    assert fault_of(await call(router, "evaluate", is_v2=False)) == (503, "env_down"), "nor is there a score"


async def test_a_rivals_409_stays_one(router: Router, env: ScriptedEnv) -> None:
    fault = fault_error(FaultReason.BUSY, operation="step").fault
    env.script = answering(whole(FaultBody.of(fault).model_dump_json().encode(), "409 Conflict"))
    assert (await call(router, "step", is_v2=False)).status_code == 409


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
async def test_a_refused_router_is_no_refused_client(router: Router, env: ScriptedEnv, status: str) -> None:
    env.script = answering(whole(b"{}", status, WWW_Authenticate="Bearer"))
    reply = await call(router, "reset")
    assert fault_of(reply) == (503, "env_down")
    assert "www-authenticate" not in reply.headers
    assert_ends_the_episode(await call(router, "step", is_v2=False), "env_down")


async def test_an_env_idx_that_moved_is_followed(router: Router, env: ScriptedEnv) -> None:
    async with ScriptedEnv() as heir:

        async def send_away(request: Received, writer: asyncio.StreamWriter) -> None:
            router.write(heir.entry(0, epoch=2))
            await answering(stale())(request, writer)

        env.script = send_away
        reply = await router.post("/env/step", b'{"prediction": "x"}')
        assert reply.content == STEP_REPLY
        [first], [second] = env.calls, heir.calls
        assert (first.one("X-Osworld-Epoch"), second.one("X-Osworld-Epoch")) == ("1", "2")
        assert first.one("Idempotency-Key") == second.one("Idempotency-Key")
        assert first.body == second.body


async def test_an_env_idx_that_stays_stale_is_a_fault(router: Router, env: ScriptedEnv) -> None:
    env.script = answering(stale())
    assert fault_of(await call(router, "step")) == (421, "stale_epoch")
    assert_ends_the_episode(await call(router, "step", is_v2=False), "stale_epoch")
    assert len(env.calls) == 4
    assert fault_of(await call(router, "reset")) == (421, "stale_epoch"), "after all of its time"


async def test_after_a_reset_that_did_not_come_through_there_is_no_score_of_the_episode_before(
    router: Router, env: ScriptedEnv
) -> None:
    async with ScriptedEnv() as gone:
        nobody = gone.entry(epoch=2)
    await router.route(nobody)
    assert fault_of(await call(router, "reset", is_v2=False)) == (503, "env_down")
    env.script = answering(whole(b"1.0"))
    await router.route(env.entry(epoch=3))
    assert fault_of(await call(router, "evaluate", is_v2=False)) == (503, "env_down")
    assert (await call(router, "reset")).status_code == 200
    assert (await call(router, "evaluate")).json() == 1.0


@pytest.mark.parametrize("operation", ["reset", "step"])
async def test_a_reply_that_broke_off_leaves_no_score(router: Router, env: ScriptedEnv, operation: str) -> None:
    env.script = breaking_off_after(head(content_length=1000) + b"{")
    assert fault_of(await call(router, operation)) == (503, "env_down")
    env.script = answering(whole(b"1.0"))
    assert fault_of(await call(router, "evaluate")) == (503, "env_down")
    assert (await call(router, "step")).status_code == 200
    assert (await call(router, "evaluate")).json() == 1.0
