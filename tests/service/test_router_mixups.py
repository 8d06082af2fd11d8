"""Many calls at once, on kept connections, to env servers that misbehave at random: no client gets another's bytes."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import trustme

from osworld_contract.registry import RegistryEntry
from router_rig import V2, Received, Router, Script, ScriptedEnv, head, whole

ENVS = 8
CALLS = 40
SEED = 20261128
SIZES = (1, 300, 17_000, 262_144, 700_000)


def body_of(request: Received, size: int) -> bytes:
    """Return a body that only this request can have."""
    mark = request.body + b"|"
    return (mark * (size // len(mark) + 1))[:size]


def misbehaving(dice: random.Random) -> Script:
    """Return a script that answers each call in a way of its own."""

    async def script(request: Received, writer: asyncio.StreamWriter) -> None:
        size = dice.choice(SIZES)
        body, end = body_of(request, size), dice.randrange(size)
        chunked = head(transfer_encoding="chunked") + b"%x\r\n%s\r\n" % (size, body) + b"0\r\n\r\n"
        ways = {
            "whole": [whole(body)],
            "in two": [whole(body)[:end], whole(body)[end:]],
            "chunked": [chunked],
            "chunked in two": [chunked[:end], chunked[end:]],
            "excess": [whole(body) + whole(b"forged")],
            "cut": [head(content_length=size) + body[:end]],
            "chunked and cut": [chunked[: len(chunked) - 6]],
            "nothing": [],
            "no HTTP": [b"\0" * 100],
            "last words": [whole(body, connection="close")],
            "open": [head() + body],
        }
        way = dice.choice(list(ways))
        for piece in ways[way]:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if way in ("cut", "chunked and cut", "nothing", "no HTTP", "last words", "open"):
            if dice.random() < 0.5 and way != "open":
                writer.transport.abort()
            writer.close()

    return script


async def play(router: Router, env_idx: int, dice: random.Random) -> dict[str, int]:
    """Make calls on one kept connection, and on another where it was cut; return how they ended."""
    ends = {"right": 0, "fault": 0, "cut": 0}
    async with httpx.AsyncClient(base_url=router.url, timeout=60) as client:
        for number in range(CALLS):
            name = b"env %d call %d " % (env_idx, number)
            path = f"/envs/{env_idx}/env/{dice.choice(('step', 'history_messages', 'evaluate'))}"
            try:
                reply = await client.post(path, content=name, headers=V2)
            except httpx.HTTPError:
                ends["cut"] += 1
                continue
            if reply.status_code == 200:
                mark = name + b"|"
                assert reply.content == (mark * (len(reply.content) // len(mark) + 1))[: len(reply.content)]
                assert len(reply.content) in SIZES
                ends["right"] += 1
            else:
                assert reply.json()["fault"]["reason"] in ("env_down", "reply_lost"), reply.text
                ends["fault"] += 1
    return ends


async def test_no_client_gets_the_bytes_of_another(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    with Router(tmp_path, OSWORLD_ROUTER_RETRY_S="0") as router:
        router.write()
        router.wait_ready()
        async with ScriptedEnv(misbehaving(dice)) as env:
            await router.route(*(env.entry(idx, uid=f"uid-{idx}") for idx in range(ENVS)))
            ends = await asyncio.gather(*(play(router, idx, random.Random(SEED + idx)) for idx in range(ENVS)))
        assert "defect" not in router.log
        assert "Traceback" not in router.log
    for kind in ("right", "fault", "cut"):
        assert sum(end[kind] for end in ends), f"none was {kind}"


@asynccontextmanager
async def tls_env(authority: trustme.CA, body: bytes) -> AsyncIterator[str]:
    """Give the URL of an env server that speaks TLS and answers everything with `body`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(2 if request.startswith(b"POST /env/") else 0)
                writer.write(whole(body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "localhost", 0, ssl=context, family=2)
    try:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_env_servers_behind_tls(tmp_path: Path) -> None:
    authority, stranger, body = trustme.CA(), trustme.CA(), b"tls" * 400_000
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    with Router(tmp_path, OSWORLD_ROUTER_RETRY_S="0", SSL_CERT_FILE=str(trusted)) as router:
        router.write()
        router.wait_ready()
        async with tls_env(authority, body) as known, tls_env(stranger, body) as unknown:
            await router.route(
                RegistryEntry(env_idx=0, uid="a", epoch=1, url=known),
                RegistryEntry(env_idx=1, uid="b", epoch=1, url=unknown),
            )
            for operation in ("reset", "step", "step", "history_messages", "evaluate"):
                assert (await router.post(f"/envs/0/env/{operation}", headers=V2)).content == body
            assert (await router.post("/envs/1/env/step", headers=V2)).status_code == 503
