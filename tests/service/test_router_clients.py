"""Clients that are slow, go too early, half close, pipeline, or are many: the rest is served as ever."""

import asyncio
from pathlib import Path

import psutil
import pytest

from router_rig import (
    CALL,
    STEP_REPLY,
    V2,
    Received,
    Router,
    ScriptedEnv,
    answering,
    hang_after,
    head,
    in_pieces,
    reset_connection,
    whole,
)
from waiting import wait_for

MIB = 1024 * 1024
WAIT_S = 20.0
IDLE_CLIENTS = 1000


async def test_a_client_that_reads_slowly_slows_the_env_server(router: Router, env: ScriptedEnv) -> None:
    size, sent = 200 * MIB, 0

    async def pour(_: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(head(content_length=size))
        while sent < size:
            writer.write(b"z" * MIB)
            sent += MIB
            await writer.drain()

    env.script = pour
    process = psutil.Process(router.pid)
    before = process.memory_info().rss
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port, limit=65536)
    writer.write(CALL % b"history_messages")
    await reader.readuntil(b"\r\n\r\n")
    last = -1

    async def has_stopped() -> bool:
        nonlocal last
        was, last = last, sent
        await asyncio.sleep(0.3)
        return was == sent

    await wait_for(has_stopped, WAIT_S, "the env server to be slowed")
    assert sent < size
    assert process.memory_info().rss - before < 32 * MIB
    left = size
    while left:
        left -= len(await asyncio.wait_for(reader.read(MIB), WAIT_S))
    writer.close()


async def test_a_client_that_goes_in_the_middle_of_a_reply_lets_go_of_the_env(router: Router, env: ScriptedEnv) -> None:
    async def pour(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head(content_length=200 * MIB))
        while True:
            writer.write(b"z" * MIB)
            await writer.drain()

    env.script = pour
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(CALL % b"history_messages")
    await reader.readuntil(b"\r\n\r\n")
    reset_connection(writer)
    await wait_for(
        lambda: "operation=history env_idx=0" in router.log and "code=client_gone" in router.log, WAIT_S, "it"
    )
    env.script = answering(whole(STEP_REPLY))
    assert (await router.post("/env/step", headers=V2)).content == STEP_REPLY


async def test_a_client_that_closes_when_it_has_all_has_the_reply(router: Router, env: ScriptedEnv) -> None:
    """A trainer counts the body's bytes and closes at once: that is no client that did not wait for its reply."""
    env.script = answering(whole(b"1.0" + b" " * 100_000))
    for _ in range(50):
        reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(CALL % b"step")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.wait_for(reader.readexactly(100_003), WAIT_S)
        writer.close()
        reply = await router.post("/env/evaluate", headers=V2)
        assert reply.status_code == 200, reply.text


async def test_a_client_that_half_closes_has_gone(router: Router, env: ScriptedEnv) -> None:
    env.script = hang_after(b"")
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(CALL % b"step")
    await wait_for(lambda: env.calls, WAIT_S, "the call at the env server")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
    await wait_for(lambda: env.is_dropped, WAIT_S, "the call to be dropped")
    writer.close()


async def test_a_trickled_request_arrives_to_the_byte(router: Router, env: ScriptedEnv) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    for piece in in_pieces(CALL % b"step", 1):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
    assert await asyncio.wait_for(reader.readexactly(len(STEP_REPLY)), WAIT_S) == STEP_REPLY
    assert env.calls[0].body == b"{}"
    writer.close()


async def test_pipelined_calls_get_their_replies_in_turn(router: Router, env: ScriptedEnv) -> None:
    async def echo(request: Received, writer: asyncio.StreamWriter) -> None:
        await answering(whole(request.path.encode() * 1000))(request, writer)

    env.script = echo
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    names = [b"step", b"history_messages", b"step"]
    writer.write(b"".join(CALL % name for name in names))
    for name in names:
        assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
        path = b"/env/" + name
        assert await asyncio.wait_for(reader.readexactly(1000 * len(path)), WAIT_S) == path * 1000
    writer.close()


async def test_a_head_without_an_end_is_refused(router: Router) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(b"POST /env/step HTTP/1.1\r\nHost: r\r\nx-filler: " + b"y" * 65_000)
    await writer.drain()
    writer.write(b"y" * 1000)
    got = await asyncio.wait_for(reader.read(), WAIT_S)
    assert got.startswith(b"HTTP/1.1 400")
    writer.close()


async def test_1000_idle_clients_are_in_nobodys_way(router: Router, env: ScriptedEnv) -> None:
    """Each has made a call and keeps its connection; half have begun another head and say no more."""
    process = psutil.Process(router.pid)
    before = process.memory_info().rss
    idle = []
    for number in range(IDLE_CLIENTS):
        reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: r\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
        if number % 2:
            writer.write(b"POST /env/step HTTP/1.1\r\nHost:")
        idle.append(writer)
    env.script = answering(whole(b"w" * 2 * MIB))
    replies = await asyncio.gather(*(router.post("/env/step", headers=V2) for _ in range(8)))
    assert [len(reply.content) for reply in replies] == [2 * MIB] * 8
    assert process.memory_info().rss - before < 64 * MIB
    for writer in idle:
        writer.close()


@pytest.mark.parametrize("operation", [b"step", b"history_messages"])
async def test_a_client_that_reads_no_more_is_cut_at_the_deadline(tmp_path: Path, operation: bytes) -> None:
    with Router(tmp_path, OSWORLD_ROUTER_STEP_TIMEOUT_S="3", OSWORLD_ROUTER_RETRY_S="0") as router:
        router.write()
        router.wait_ready()
        async with ScriptedEnv(answering(whole(b"z" * 30 * MIB))) as env:
            await router.route(env.entry())
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port, limit=65536)
            writer.write(CALL % operation)
            await reader.readuntil(b"\r\n\r\n")

            def connections() -> list[int]:
                found = psutil.Process(router.pid).net_connections("tcp")
                return [one.raddr.port for one in found if one.raddr and one.laddr.port == router.port]

            mine = writer.get_extra_info("sockname")[1]
            assert mine in connections()
            await wait_for(lambda: mine not in connections(), WAIT_S, "the end of the connection")
            writer.close()
