"""Calls on their way through a real router: what the env server gets, and what the client gets back."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from router_rig import STEP_REPLY, V2, Received, Router, ScriptedEnv, answering, fault_of, head, running_router, whole
from waiting import wait_for

MIB = 1024 * 1024
ARRIVAL_S = 20.0


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    with running_router(tmp_path_factory.mktemp("router"), OSWORLD_UPSTREAM_TOKEN="between-us") as process:
        yield process


@pytest.fixture
async def env(router: Router) -> AsyncIterator[ScriptedEnv]:
    async with ScriptedEnv() as scripted:
        await router.route(scripted.entry(0), scripted.entry(3, epoch=5))
        yield scripted


async def test_a_call_reaches_the_env_of_its_path_with_idx_epoch_and_the_upstream_token(
    router: Router, env: ScriptedEnv
) -> None:
    headers = {"Authorization": "Bearer of-the-client", "X-Osworld-Epoch": "99", "X-Env-Idx": "0", "X-Other": "kept"}
    reply = await router.post("/envs/3/env/step?since=4", b'{"prediction": "x"}', headers=headers)
    assert (reply.status_code, reply.content) == (200, STEP_REPLY)
    [call] = env.calls
    assert (call.method, call.target, call.body) == ("POST", "/env/step?since=4", b'{"prediction": "x"}')
    assert call.one("X-Env-Idx") == "3"
    assert call.one("X-Osworld-Epoch") == "5"
    assert call.one("Authorization") == "Bearer between-us"
    assert call.one("X-Other") == "kept"
    assert call.one("Content-Length") == "19"
    assert call.all("Connection") in ([], ["keep-alive"])


@pytest.mark.parametrize(
    ("path", "headers", "env_idx"),
    [("/env/step", {}, "0"), ("/env/step", {"X-Env-Idx": "3"}, "3"), ("/env/step?env_idx=3", {}, "3")],
)
async def test_bare_paths(router: Router, env: ScriptedEnv, path: str, headers: dict[str, str], env_idx: str) -> None:
    assert (await router.post(path, headers=headers)).status_code == 200
    assert env.calls[0].one("X-Env-Idx") == env_idx


async def test_steps_and_resets_carry_a_key_and_the_clients_own_wins(router: Router, env: ScriptedEnv) -> None:
    await router.post("/env/step")
    await router.post("/env/step")
    await router.post("/env/step", headers={"Idempotency-Key": "mine"})
    await router.post("/env/step", headers={"X-Osworld-Step": "4"})
    await router.post("/env/reset")
    keys = [call.all("Idempotency-Key") for call in env.calls]
    assert keys[0] != keys[1]
    assert [len(key) for key in keys] == [1, 1, 1, 0, 1]
    assert keys[2] == ["mine"]


@pytest.mark.parametrize(
    "body", [b"", b'{"prediction": ', b"\x00\xff\xfe", b"[1,2", "\u2028\x07".encode(), b"x" * 100_000]
)
async def test_a_body_is_passed_on_untouched_whatever_it_is(router: Router, env: ScriptedEnv, body: bytes) -> None:
    env.script = answering(whole(b'{"detail": "no"}', "422 Unprocessable Entity", X_Osworld_Fault="client/bad_request"))
    reply = await router.post("/env/reset", body)
    assert (reply.status_code, reply.content) == (422, b'{"detail": "no"}')
    assert reply.headers["X-Osworld-Fault"] == "client/bad_request"
    assert env.calls[0].body == body


async def test_a_reply_is_passed_on_to_the_byte(router: Router, env: ScriptedEnv) -> None:
    packed = gzip.compress(b"a" * 1000)
    env.script = answering(whole(packed, content_encoding="gzip", Set_Cookie="a=1", Keep_Alive="timeout=9", Server="e"))
    async with router.client() as client, client.stream("POST", "/env/step", content=b"{}") as reply:
        raw = b"".join([chunk async for chunk in reply.aiter_raw()])
    assert raw == packed
    assert reply.headers["content-length"] == str(len(packed))
    assert reply.headers["content-encoding"] == "gzip"
    assert reply.headers["set-cookie"] == "a=1"
    assert "keep-alive" not in reply.headers
    await router.post("/env/step")
    assert not env.calls[1].all("Cookie")


async def test_a_chunked_reply_stays_one(router: Router, env: ScriptedEnv) -> None:
    env.script = answering(head(transfer_encoding="chunked") + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    reply = await router.post("/env/step")
    assert (reply.content, reply.headers.get("content-length")) == (b"abcde", None)


async def test_redirects_are_the_clients(router: Router, env: ScriptedEnv) -> None:
    env.script = answering(whole(b"", "307 Temporary Redirect", Location="/elsewhere"))
    assert (await router.post("/env/reset")).status_code == 307
    assert len(env.calls) == 1


async def test_a_reply_of_5_mb_is_streamed(router: Router, env: ScriptedEnv) -> None:
    half, go_on = b"x" * (5 * MIB // 2), asyncio.Event()

    async def in_two_halves(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head(content_length=2 * len(half)) + half)
        await writer.drain()
        await go_on.wait()
        writer.write(half)
        await writer.drain()

    env.script = in_two_halves
    got = 0
    async with router.client() as client, client.stream("POST", "/env/history_messages", content=b"{}") as reply:
        async for chunk in reply.aiter_raw():
            got += len(chunk)
            if got == len(half):
                go_on.set()
    assert go_on.is_set()
    assert got == 2 * len(half)


@pytest.mark.parametrize("has_length", [True, False])
async def test_a_large_request_is_streamed(router: Router, env: ScriptedEnv, has_length: bool) -> None:
    piece, pieces = b"y" * MIB, 5
    waits: list[int] = []

    async def upload() -> AsyncIterator[bytes]:
        for number in range(pieces):
            yield piece
            if number == pieces - 2:
                waits.append(await wait_for(lambda: env.partial_bytes, ARRIVAL_S, "the first half at the env server"))

    headers = {"Content-Length": str(pieces * len(piece))} if has_length else {}
    reply = await router.post("/env/reset", upload(), headers=headers)
    assert reply.status_code == 200
    assert waits
    assert env.calls[0].body == piece * pieces


async def test_50_mb_pass(router: Router, env: ScriptedEnv) -> None:
    body = b"z" * (50 * MIB)
    assert (await router.post("/env/reset", body)).status_code == 200
    assert len(env.calls[0].body) == len(body)


async def test_more_than_the_limit_is_413(tmp_path: Path) -> None:
    with Router(tmp_path, OSWORLD_ROUTER_BODY_LIMIT_MIB="2") as small:
        small.write()
        small.wait_ready()
        async with ScriptedEnv() as env:
            await small.route(env.entry())
            for headers in ({}, V2):
                reply = await small.post("/env/step", b"x" * (50 * MIB), headers=headers)
                assert fault_of(reply) == (413, "body_too_large")

            async def endless() -> AsyncIterator[bytes]:
                for _ in range(50):
                    yield b"x" * MIB

            assert fault_of(await small.post("/env/reset", endless())) == (413, "body_too_large")
            assert not env.calls


async def test_a_body_that_stops_coming_is_a_fault(tmp_path: Path) -> None:
    with Router(tmp_path, OSWORLD_ROUTER_BODY_IDLE_TIMEOUT_S="0.3") as impatient:
        impatient.write()
        impatient.wait_ready()
        async with ScriptedEnv() as env:
            await impatient.route(env.entry())
            reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
            writer.write(b"POST /env/step HTTP/1.1\r\nHost: r\r\nContent-Length: 100\r\n\r\n{")
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            writer.close()
            assert answer.startswith(b"HTTP/1.1 422")
            assert not env.calls


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", (404, "not_found")),
        ("POST", "/env/stop", (404, "not_found")),
        ("POST", "/envs/0/drain", (404, "not_found")),
        ("POST", "/envs/x/env/step", (404, "unknown_env")),
        ("POST", "/envs/77/env/step", (404, "unknown_env")),
        ("GET", "/envs/77/state", (404, "unknown_env")),
        ("GET", "/envs/1/state", (503, "env_down")),
        ("POST", "/env/step?env_idx=x", (422, "bad_request")),
        ("GET", "/env/step", (405, "method_not_allowed")),
        ("PUT", "/envs/0/env/step", (405, "method_not_allowed")),
        ("POST", "/health", (405, "method_not_allowed")),
    ],
)
async def test_mistakes_are_typed_faults(
    router: Router, env: ScriptedEnv, method: str, path: str, expected: tuple[int, str]
) -> None:
    async with router.client() as client:
        reply = await client.request(method, path)
    assert fault_of(reply) == expected
    assert ("allow" in reply.headers) is (expected[0] == 405)
    assert not env.calls


async def test_pages_of_an_env_are_passed_through(router: Router, env: ScriptedEnv) -> None:
    env.script = answering(whole(b'{"phase": "idle"}'))
    assert (await router.get("/envs/3/state")).json() == {"phase": "idle"}
    assert (await router.get("/envs/3/health")).json()["provider"] == "xvfb"
    assert env.calls[0].one("Authorization") == "Bearer between-us"
    assert not env.calls[0].body


async def test_the_pages_of_the_router(router: Router, env: ScriptedEnv) -> None:
    async def is_seen() -> bool:
        return bool((await router.get("/health")).json()["pool"]["total"] == 2)

    _: bool = await wait_for(is_seen, 30, "the cached health to be renewed")
    health = (await router.get("/health")).json()
    expected = {"status": "ok", "provider": "xvfb", "observation_type": "screenshot", "kvm_available": False}
    assert expected.items() <= health.items()
    assert (health["kvm_device"], health["env_status"]) == (None, "initialized")
    assert health["pool"] == {"name": "local", "total": 2, "ready": 2, "degraded": 0, "down": 0, "initialized": 2}
    envs = (await router.get("/envs")).json()
    assert (envs["pool"], [entry["env_idx"] for entry in envs["envs"]]) == ("local", [0, 3])
    for path in ("/livez", "/readyz"):
        assert (await router.get(path)).status_code == 200
    assert "/envs/{env_idx}/env/step" in (await router.get("/openapi.json")).json()["paths"]


async def test_metrics_count_calls_and_never_name_an_env(router: Router, env: ScriptedEnv) -> None:
    await router.post("/envs/3/env/step")
    text = (await router.get("/metrics")).text
    assert 'osworld_router_request_seconds_count{code="200",operation="step"}' in text
    assert 'osworld_router_upstream_seconds_bucket{le="0.05",operation="step"}' in text
    assert 'osworld_router_envs{state="down"}' in text
    assert "env_idx" not in text
    await router.get("/no/such/path")
    refused = 'osworld_faults_total{kind="client",operation="none",reason="not_found"} '
    assert refused in (await router.get("/metrics")).text


async def test_a_call_is_one_line_of_the_log(router: Router, env: ScriptedEnv) -> None:
    await router.post("/envs/3/env/evaluate")
    line = f"call operation=evaluate env_idx=3 epoch=5 uid=uid-{env.port} code=200 attempts=1 seconds="
    await wait_for(lambda: router.log.count(line) == 1, 30, "the line of the call")


async def test_keep_alive_clients_are_served(router: Router, env: ScriptedEnv) -> None:
    async with httpx.AsyncClient(base_url=router.url) as client:
        for _ in range(3):
            assert (await client.post("/env/step", content=b"{}")).content == STEP_REPLY
        assert (await client.post("/env/nothing", content=b"{}")).status_code == 404
        assert (await client.post("/env/step", content=b"{}")).json() == json.loads(STEP_REPLY)
