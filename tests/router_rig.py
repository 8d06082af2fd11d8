"""What the router's tests need: routers as processes, and env servers that misbehave on purpose.

`ScriptedEnv` is a source of faults (hang, die in mid-reply, lie) and of replies known to the byte. How router and real
env servers play together is tested with real ones. Over 300 lines: each test wants both sides, and the bytes between.
"""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from osworld_contract.names import ACK_PATH
from osworld_contract.registry import Registry, RegistryEntry, write_registry
from osworld_contract.replay import JOURNAL_PATH
from osworld_env.ports import free_port
from server_process import ServerProcess, clean_environment
from waiting import wait_for

TOKEN = "t0ken-of-the-pool"
UPSTREAM_TOKEN = "t0ken-between-us"

STEP_REPLY = b'{"env_idx": 0, "obs_messages": [], "is_done": false, "format_reward": 0.0}'
HEALTH = {
    "status": "ok",
    "provider": "xvfb",
    "observation_type": "screenshot",
    "kvm_available": False,
    "kvm_device": None,
    "env_status": "initialized",
}


@dataclass(frozen=True)
class Received:
    """A request as an env server saw it."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name: str) -> str:
        [value] = self.all(name)
        return value


Script = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def head(status: str = "200 OK", **headers: object) -> bytes:
    """Return the head of a reply."""
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def whole(body: bytes, status: str = "200 OK", **headers: object) -> bytes:
    """Return a reply."""
    return head(status, content_type="application/json", content_length=len(body), **headers) + body


def answering(reply: bytes) -> Script:
    """Return a script that sends `reply`."""

    async def script(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await writer.drain()

    return script


def breaking_off_after(start: bytes) -> Script:
    """Return a script that sends `start` and closes the connection."""

    async def script(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await writer.drain()
        writer.close()

    return script


def hang_after(start: bytes) -> Script:
    """Return a script that sends `start` and then nothing, with the connection open."""

    async def script(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await asyncio.Event().wait()

    return script


@dataclass
class ScriptedEnv:
    """An env server that does to calls what `script` says, and answers what a router asks for itself."""

    script: Script = field(default_factory=lambda: answering(whole(STEP_REPLY)))
    is_cut_off: bool = False
    """Takes connections and requests and says nothing at all, as after a power cut."""
    received: list[Received] = field(default_factory=list)
    partial_bytes: int = 0
    """What has come of a request that is still coming."""
    journal: bytes = head("204 No Content")
    """Its answer to a router that asks what it plays."""
    is_dropped: bool = False
    """Whether a caller has closed its connection before it was answered."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._open: set[asyncio.StreamWriter] = set()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._open:
            writer.close()
        await asyncio.wait_for(self._server.wait_closed(), 5)

    @property
    def calls(self) -> list[Received]:
        """Return the requests that came from a client."""
        own = ("/health", "/livez", ACK_PATH, JOURNAL_PATH)
        return [request for request in self.received if request.path not in own]

    @property
    def acks(self) -> list[Received]:
        """Return the acknowledgements."""
        return [request for request in self.received if request.path == ACK_PATH]

    def entry(self, env_idx: int = 0, epoch: int = 1, uid: str = "") -> RegistryEntry:
        uid = uid or f"uid-{self.port}"
        return RegistryEntry(env_idx=env_idx, uid=uid, epoch=epoch, url=f"http://127.0.0.1:{self.port}")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                request = await self._read(reader)
                self.received.append(request)
                if self.is_cut_off:
                    await reader.read()
                    self.is_dropped = True
                    return
                if request.path == "/health":
                    await answering(whole(json.dumps(HEALTH).encode()))(request, writer)
                elif request.path == "/livez":
                    await answering(whole(b"{}"))(request, writer)
                elif request.path == ACK_PATH:
                    await answering(whole(b'{"acknowledged": true}'))(request, writer)
                elif request.path == JOURNAL_PATH:
                    await answering(self.journal)(request, writer)
                else:
                    await self._play(request, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _play(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Run the script, and note if the caller goes meanwhile."""
        playing = asyncio.ensure_future(self.script(request, writer))
        going = asyncio.ensure_future(self._wait_for_end(reader))
        await asyncio.wait({playing, going}, return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            self.is_dropped = True
            playing.cancel()
            raise ConnectionError
        going.cancel()
        await asyncio.wait({going})
        await playing

    async def _wait_for_end(self, reader: asyncio.StreamReader) -> None:
        while not reader.at_eof():  # noqa: ASYNC110 - no event of a StreamReader leaves its bytes alone
            await asyncio.sleep(0.02)

    async def _read(self, reader: asyncio.StreamReader) -> Received:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        pairs = [line.partition(":") for line in lines[1:] if line]
        headers = tuple((name, value.strip()) for name, _, value in pairs)
        known = {name.lower(): value for name, value in headers}
        if known.get("transfer-encoding") == "chunked":
            body = await self._read_chunked(reader)
        else:
            body = await self._read_counted(reader, int(known.get("content-length", "0")))
        self.partial_bytes = 0
        return Received(method, target, headers, body)

    async def _read_counted(self, reader: asyncio.StreamReader, size: int) -> bytes:
        body = bytearray()
        while len(body) < size:
            chunk = await reader.read(min(65536, size - len(body)))
            if not chunk:
                raise asyncio.IncompleteReadError(bytes(body[:100]), size)
            body += chunk
            self.partial_bytes = len(body)
        return bytes(body)

    async def _read_chunked(self, reader: asyncio.StreamReader) -> bytes:
        body = bytearray()
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            self.partial_bytes = len(body)
            await reader.readline()
        await reader.readline()
        return bytes(body)


class Router(ServerProcess):
    """A router with a registry of its own."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        self.registry_path = folder / "registry.json"
        port = free_port()
        settings = {
            "OSWORLD_REGISTRY_FILE": str(self.registry_path),
            "OSWORLD_ROUTER_PORT": str(port),
            "OSWORLD_ROUTER_ENV_WAIT_S": "0.3",
        }
        environment = clean_environment(**(settings | variables))
        super().__init__("osworld_router", folder, environment, port, *arguments)

    def write(self, *entries: RegistryEntry) -> None:
        """Write the registry."""
        write_registry(self.registry_path, Registry(envs=entries))

    async def route(self, *entries: RegistryEntry) -> None:
        """Write the registry and wait until the router has it. Needs a router without a token."""
        self.write(*entries)
        wanted = [entry.model_dump() for entry in entries]

        async def has_it() -> bool:
            return await self._envs() == wanted

        _: bool = await wait_for(has_it, 30, "the router to take over the registry")

    async def _envs(self) -> list[dict[str, Any]]:
        envs: list[dict[str, Any]] = (await self.get("/envs")).json()["envs"]
        return envs

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
        """Give a client that opens a connection per call, as the trainer's does."""
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=self.url, timeout=60, limits=limits, **options) as client:
            yield client

    async def post(self, path: str, content: Any = b"{}", **options: Any) -> httpx.Response:
        """Make one call over a fresh connection."""
        async with self.client() as client:
            return await client.post(path, content=content, **options)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """Read one page over a fresh connection."""
        async with self.client() as client:
            return await client.get(path, **options)


@contextmanager
def running_router(folder: Path, **variables: str) -> Iterator[Router]:
    """Give a router that has started, with an empty registry."""
    with Router(folder, **variables) as process:
        process.write()
        yield process.wait_ready()


@asynccontextmanager
async def routed_env(router: Router) -> AsyncIterator[ScriptedEnv]:
    """Give a scripted env server that is env 0 behind `router`."""
    async with ScriptedEnv() as scripted:
        await router.route(scripted.entry())
        yield scripted


V2 = {"X-Osworld-Client": "v2"}

CALL = b"POST /envs/0/env/%s HTTP/1.1\r\nHost: r\r\nX-Osworld-Client: v2\r\nContent-Length: 2\r\n\r\n{}"
"""A call in bytes, for clients that no library offers."""


def fault_of(reply: httpx.Response) -> tuple[int, str]:
    """Return status and reason of a reply that must carry a fault, in its body and in its header alike."""
    content = reply.json()
    fault = content["fault"]
    assert reply.headers["X-Osworld-Fault"] == f"{fault['kind']}/{fault['reason']}"
    if reply.status_code >= 400:
        assert content["detail"] == fault["message"]
    return reply.status_code, fault["reason"]


def in_pieces(reply: bytes, size: int) -> list[bytes]:
    """Return `reply` cut into pieces of `size`."""
    return [reply[start : start + size] for start in range(0, len(reply), size)]


def reset_connection(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset packet."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
