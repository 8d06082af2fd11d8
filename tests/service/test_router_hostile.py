"""Env servers whose bytes come late, never, or as something else: each call ends right or as a fault."""

import asyncio
from pathlib import Path

import psutil
import pytest

from osworld_contract.registry import RegistryEntry
from router_rig import (
    CALL,
    STEP_REPLY,
    V2,
    Received,
    Router,
    ScriptedEnv,
    answering,
    breaking_off_after,
    fault_of,
    head,
    in_pieces,
    reset_connection,
    whole,
)
from waiting import wait_for

MIB = 1024 * 1024
WAIT_S = 20.0


@pytest.mark.parametrize("operation", ["step", "history_messages"])
@pytest.mark.parametrize("framing", ["counted", "chunked", "open"])
async def test_a_trickled_reply_arrives_to_the_byte(
    router: Router, env: ScriptedEnv, operation: str, framing: str
) -> None:
    replies = {
        "counted": whole(STEP_REPLY),
        "chunked": head(transfer_encoding="chunked")
        + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in in_pieces(STEP_REPLY, 7))
        + b"0\r\n\r\n",
        "open": head() + STEP_REPLY,
    }

    async def trickle(_: Received, writer: asyncio.StreamWriter) -> None:
        for piece in in_pieces(replies[framing], 1):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if framing == "open":
            writer.close()

    env.script = trickle
    reply = await router.post(f"/env/{operation}", headers=V2)
    assert (reply.status_code, reply.content) == (200, STEP_REPLY)


@pytest.mark.parametrize("size", [1, 16 * 1024, 256 * 1024, 256 * 1024 + 1, 3 * MIB])
@pytest.mark.parametrize("operation", ["step", "history_messages"])
async def test_bodies_of_all_sizes_arrive_to_the_byte(
    router: Router, env: ScriptedEnv, operation: str, size: int
) -> None:
    body = bytes(number * 7 % 251 for number in range(4096)) * (size // 4096 + 1)
    env.script = answering(whole(body[:size]))
    async with router.client() as client:
        for _ in range(3):
            assert (await client.post(f"/env/{operation}", content=b"{}", headers=V2)).content == body[:size]


@pytest.mark.parametrize("operation", ["step", "history_messages"])
async def test_a_reset_in_the_middle_of_a_reply(router: Router, env: ScriptedEnv, operation: str) -> None:
    async def reset(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head(content_length=4 * MIB) + b"x" * MIB)
        await writer.drain()
        reset_connection(writer)

    env.script = reset
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(CALL % operation.encode())
    got = await asyncio.wait_for(reader.read(), WAIT_S)
    writer.close()
    if operation == "step":
        assert got.startswith(b"HTTP/1.1 503"), "nothing of a broken reply reaches the client"
        assert b"env_down" in got
    else:
        assert len(got) < 4 * MIB, "the connection is cut"
    env.script = answering(whole(STEP_REPLY))
    assert (await router.post("/env/step", headers=V2)).content == STEP_REPLY


@pytest.mark.parametrize("is_late", [False, True])
async def test_what_follows_a_reply_is_not_the_next_one(router: Router, env: ScriptedEnv, is_late: bool) -> None:
    """An env server that sends more than it says: its connection is not used again, so the excess answers nobody."""
    forged = whole(b'{"forged": true}')

    async def lie(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(STEP_REPLY) if is_late else whole(STEP_REPLY) + forged)
        await writer.drain()
        if is_late:
            writer.write(forged)

    env.script = lie
    async with router.client() as client:
        for _ in range(20):
            assert (await client.post("/env/step", content=b"{}", headers=V2)).content == STEP_REPLY
            await wait_for(lambda: len(env.acks) >= len(env.calls), WAIT_S, "the acknowledgement")


@pytest.mark.parametrize(
    "start",
    [
        head(content_length="5\r\ncontent-length: 4") + b"12345",
        head(content_length="+5") + b"12345",
        head(content_length=5, transfer_encoding="chunked") + b"5\r\n12345\r\n0\r\n\r\n",
        head(transfer_encoding="gzip, chunked") + b"5\r\n12345\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 5\n\n12345",
        b"\r\n\r\n" + whole(b"12345"),
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000,
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)
async def test_heads_that_could_be_misunderstood(router: Router, env: ScriptedEnv, start: bytes) -> None:
    env.script = breaking_off_after(start)
    assert fault_of(await router.post("/env/step", headers=V2)) == (503, "env_down")


async def test_interim_replies_are_read_over(router: Router, env: ScriptedEnv) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    env.script = answering(interim + whole(STEP_REPLY))
    reply = await router.post("/env/step", headers=V2)
    assert (reply.content, "link" in reply.headers) == (STEP_REPLY, False)


async def test_a_reply_without_a_body(router: Router, env: ScriptedEnv) -> None:
    env.script = answering(b"HTTP/1.1 204 No Content\r\ncontent-length: 7\r\n\r\n")
    reply = await router.post("/env/step", headers=V2)
    assert (reply.status_code, reply.content) == (204, b"")


@pytest.mark.parametrize("operation", ["step", "history_messages"])
async def test_an_env_server_that_half_closes_after_its_reply(router: Router, env: ScriptedEnv, operation: str) -> None:
    async def half_close(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(STEP_REPLY))
        writer.write_eof()
        await asyncio.Event().wait()

    env.script = half_close
    for _ in range(3):
        assert (await router.post(f"/env/{operation}", headers=V2)).content == STEP_REPLY


async def test_an_env_server_that_stops_reading_a_long_request(tmp_path: Path) -> None:
    """Nothing of the request stays behind in the router once its deadline has passed."""
    taken, done = asyncio.Event(), asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET"):
            writer.write(head("404 Not Found", content_length=0, connection="close"))
            writer.close()
            return
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # a stream has no other way to stop
        taken.set()
        await done.wait()
        writer.transport.abort()

    server = await asyncio.start_server(stall, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with Router(tmp_path, OSWORLD_ROUTER_RESET_TIMEOUT_S="4") as router:
        router.write(RegistryEntry(env_idx=0, uid="u", epoch=1, url=url))
        router.wait_ready("/livez")
        process = psutil.Process(router.pid)
        reply = await router.post("/env/reset", b"x" * (30 * MIB), headers=V2)
        assert taken.is_set()
        assert fault_of(reply)[0] in (503, 504)
        end = {connection.laddr.port for connection in process.net_connections("tcp")} - {router.port}
        assert not end, "a connection to the env server is left"
    done.set()
    server.close()
    await asyncio.wait_for(server.wait_closed(), WAIT_S)
