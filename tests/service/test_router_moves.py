"""A router that asks the one writer for a spare: what it shows and says there, and what it makes of the answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router_rig import STEP_REPLY, UPSTREAM_TOKEN, Received, Router, Script, ScriptedEnv, answering, hang_after, whole

HEDGE_AFTER_S = 0.5
NO_SPARE = whole(b'{"detail": "there is no spare"}', "503 Service Unavailable")


@pytest.fixture
async def writer() -> AsyncIterator[ScriptedEnv]:
    async with ScriptedEnv() as process:
        yield process


@pytest.fixture
async def env() -> AsyncIterator[ScriptedEnv]:
    async with ScriptedEnv(hang_after(b"")) as process:
        yield process


@pytest.fixture
async def router(tmp_path: Path, writer: ScriptedEnv, env: ScriptedEnv) -> AsyncIterator[Router]:
    with Router(
        tmp_path,
        OSWORLD_ROUTER_MOVE_URL=f"http://127.0.0.1:{writer.port}/pools/train/desks/",
        OSWORLD_ROUTER_MOVE_TOKEN_FILE=str(tmp_path / "token"),
        OSWORLD_UPSTREAM_TOKEN=UPSTREAM_TOKEN,
        OSWORLD_ROUTER_HEDGE_AFTER_S=str(HEDGE_AFTER_S),
        OSWORLD_ROUTER_RESET_TIMEOUT_S="6",
    ) as process:
        process.wait_ready("/livez")
        (tmp_path / "token").write_text("of-the-router\n")
        await process.route(env.entry())
        yield process


async def test_a_late_reset_goes_on_where_the_writer_says(
    router: Router, writer: ScriptedEnv, env: ScriptedEnv
) -> None:
    async with ScriptedEnv() as heir:

        async def move(request: Received, connection: asyncio.StreamWriter) -> None:
            entry = heir.entry(0, epoch=2)
            router.write(entry)
            await answering(whole(entry.model_dump_json().encode()))(request, connection)

        writer.script = move
        reply = await router.post("/env/reset", b'{"task_config": {}}')
        assert reply.content == STEP_REPLY
        [asked] = writer.calls
        assert asked.path == "/pools/train/desks/envs/0/move"
        assert json.loads(asked.body) == {"from_uid": env.entry().uid, "epoch": 1}
        assert asked.one("Authorization") == "Bearer of-the-router", "and not what is meant for env servers"
        assert heir.calls[0].one("Authorization") == f"Bearer {UPSTREAM_TOKEN}"
        assert (heir.calls[0].one("X-Osworld-Uid"), heir.calls[0].one("X-Osworld-Epoch")) == (heir.entry().uid, "2")


def refusing(env: ScriptedEnv, answer: bytes) -> Script:
    """Return a writer that answers `answer`, whereupon `env` works again."""

    async def script(request: Received, connection: asyncio.StreamWriter) -> None:
        env.script = answering(whole(STEP_REPLY))
        await answering(answer)(request, connection)

    return script


async def test_the_token_is_read_at_every_move(
    router: Router, writer: ScriptedEnv, env: ScriptedEnv, tmp_path: Path
) -> None:
    writer.script = refusing(env, NO_SPARE)
    await router.post("/env/reset", b'{"task_config": {}}')
    (tmp_path / "token").write_text("renewed")
    env.script = hang_after(b"")
    await router.post("/env/reset", b'{"task_config": {}}')
    assert [call.one("Authorization") for call in writer.calls] == ["Bearer of-the-router", "Bearer renewed"]


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (NO_SPARE, "no_spare"),
        (whole(b'{"detail": "not yours"}', "403 Forbidden"), "failed"),
        (whole(b'{"env_idx": "first"}'), "failed"),
    ],
)
async def test_without_a_spare_a_reset_stays_where_it_is(
    router: Router, writer: ScriptedEnv, env: ScriptedEnv, answer: bytes, result: str
) -> None:
    writer.script = refusing(env, answer)
    reply = await router.post("/env/reset", b'{"task_config": {}}')
    assert reply.content == STEP_REPLY
    assert len(env.calls) == 2
    metrics = (await router.get("/metrics")).text
    assert f'osworld_router_hedges_total{{result="{result}"}} 1.0' in metrics


async def test_a_token_that_is_not_there_is_said(router: Router, writer: ScriptedEnv, tmp_path: Path) -> None:
    (tmp_path / "token").unlink()
    await router.post("/env/reset", b'{"task_config": {}}')
    assert writer.calls == []
    assert "OSWORLD_ROUTER_MOVE_TOKEN_FILE cannot be read" in router.log
