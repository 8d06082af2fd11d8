"""What the router adds to a 1.7 MB reply, against the same call without it, in the same run.

Client, router and upstream are three processes. The upstream sends a reply that is at hand, so that what is measured is
the hop. Calls alternate between both ways, so that a busy machine slows both alike. Prints one JSON object, then one
line for people.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar, cast

import psutil
import uvloop

from osworld_contract.registry import Registry, RegistryEntry, write_registry
from osworld_contract.replay import HEADER_SIGHT, Mark
from osworld_env.ports import free_port

REPLY_BYTES = 1_700_000
"""A reply late in an episode. Source: vm-notes, "Proxies"."""

SCREENSHOT_BYTES = 110_000
"""Of its fifteen screenshots, the last, which the router keeps."""

ENV_IDX = re.compile(rb"(?i)\r\nx-osworld-env-idx: (\d+)")
REQUEST_BODY = json.dumps({"prediction": "Thought: go on.\nAction: click(start_box='(100,200)')" + " " * 400}).encode()
START_TIMEOUT_S = 20.0
CALL_TIMEOUT_S = 10.0
IDLE_S = 2.0
LARGE_POOL = 1000

Address = tuple[str, int]


class Upstream(asyncio.Protocol):
    """Answers every request, keep-alive, with the same bytes. Understands requests that come in one piece.

    To a router it says of what state that is, as an env server does, so that the router notes the reply for a replay.
    """

    HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % REPLY_BYTES
    IMAGE = b'{"type":"image","b64":"%s"}]}]}' % os.urandom(SCREENSHOT_BYTES // 2).hex().encode()
    START = b'{"obs_messages":[{"content":[{"type":"text","text":"'
    BODY = START + b"a" * (REPLY_BYTES - len(START) - len(IMAGE) - 3) + b'"},' + IMAGE
    steps: ClassVar[dict[bytes, int]] = {}
    """Steps of the running episode, by env_idx."""

    NOTHING = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
    SHORT_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        if not separator:
            return
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if len(body) >= (int(lengths[0].split(b":")[1]) if lengths else 0):
            self.received = b""
            if head.startswith(b"GET /journal "):
                self.transport.write(self.NOTHING)  # no episode that began before
            elif head.startswith((b"POST /ack ", b"GET ")):
                self.transport.write(self.SHORT_REPLY)
            else:
                self.transport.writelines([self.HEAD, self._mark(head), b"\r\n", self.BODY])

    def _mark(self, head: bytes) -> bytes:
        idx = ENV_IDX.search(head)
        if idx is None or b" /env/history_messages " in head:
            return b""
        self.steps[idx[1]] = 0 if b" /env/reset " in head else self.steps.get(idx[1], 0) + 1
        mark = Mark(f"{idx[1].decode()}".zfill(32), self.steps[idx[1]], can_evaluate_again=True, windows="d" * 32)
        return f"{HEADER_SIGHT}: {mark.header}\r\n".encode()


async def serve_upstream() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Caller:
    """Makes calls at one address, over a fresh connection each or over one that is kept."""

    def __init__(self, address: Address, path: str, *, is_fresh: bool) -> None:
        self._address = address
        self._is_fresh = is_fresh
        self._kept: socket.socket | None = None
        self._buffer = bytearray(REPLY_BYTES + 65536)
        host = f"{address[0]}:{address[1]}"
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(REQUEST_BODY)}\r\n{'Connection: close' if is_fresh else ''}\r\n"
        self._request = head.encode() + (b"\r\n" if is_fresh else b"") + REQUEST_BODY

    def call(self) -> float:
        """Make one call, return its time in seconds."""
        started = time.perf_counter()
        connection = self._kept or socket.create_connection(self._address, CALL_TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(self._request)
        self._read_reply(connection)
        if self._is_fresh:
            connection.close()
        else:
            self._kept = connection
        return time.perf_counter() - started

    def close(self) -> None:
        if self._kept:
            self._kept.close()

    def _read_reply(self, connection: socket.socket) -> None:
        view, got, end = memoryview(self._buffer), 0, -1
        while end < 0 or got < end:
            count = connection.recv_into(view[got:])
            if not count:
                raise RuntimeError(f"the reply ended after {got} bytes: {bytes(view[: min(got, 300)])!r}")
            got += count
            if end < 0 and (head := self._buffer.find(b"\r\n\r\n", 0, got)) >= 0:
                end = head + 4 + REPLY_BYTES


@contextmanager
def process(argv: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run `argv` while the context is open."""
    child = subprocess.Popen(argv, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(timeout=START_TIMEOUT_S)


def wait_for_port(address: Address) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(address, 1.0).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def compare(direct: Address, routed: Address, calls: int, *, is_fresh: bool) -> dict[str, float]:
    """Return p50 and p90 in milliseconds of both ways, and what the router adds."""
    with (
        closing(Caller(direct, "/env/step", is_fresh=is_fresh)) as plain,
        closing(Caller(routed, "/envs/0/env/step", is_fresh=is_fresh)) as through,
    ):
        for _ in range(10):
            plain.call()
            through.call()
        pairs = [(plain.call() * 1000, through.call() * 1000) for _ in range(calls)]
    ways = {"direct": [pair[0] for pair in pairs], "router": [pair[1] for pair in pairs]}
    figures = {}
    for way, times_ms in ways.items():
        figures[f"{way}_p50_ms"] = round(statistics.median(times_ms), 3)
        figures[f"{way}_p90_ms"] = round(statistics.quantiles(times_ms, n=10)[8], 3)
    figures["added_p50_ms"] = round(figures["router_p50_ms"] - figures["direct_p50_ms"], 3)
    return figures


def large_pool_memory(direct: Address, folder: Path) -> dict[str, dict[str, float]]:
    """Return the memory of a router with `LARGE_POOL` envs: idle, after it has asked each, after a call of each."""
    registry = folder / "large.json"
    url = f"http://127.0.0.1:{direct[1]}"
    entries = [RegistryEntry(env_idx=idx, uid=f"bench-{idx}", epoch=1, url=url) for idx in range(LARGE_POOL)]
    write_registry(registry, Registry(envs=tuple(entries)))
    routed = ("127.0.0.1", free_port())
    settings = {
        "OSWORLD_REGISTRY_FILE": str(registry),
        "OSWORLD_ROUTER_PORT": str(routed[1]),
        "OSWORLD_LOG_LEVEL": "ERROR",  # the env servers' health is none
    }
    with process([sys.executable, "-m", "osworld_router"], settings) as router:
        wait_for_port(routed)
        time.sleep(IDLE_S)
        idle = memory(router.pid)
        urllib.request.urlopen(f"http://127.0.0.1:{routed[1]}/health", timeout=START_TIMEOUT_S).close()
        asked = memory(router.pid)
        for entry in entries:
            with closing(Caller(routed, f"/envs/{entry.env_idx}/env/history_messages", is_fresh=True)) as caller:
                caller.call()
        return {"idle": idle, "all_asked": asked, "all_called": memory(router.pid)}


def memory(pid: int) -> dict[str, float]:
    """Return RSS and PSS of a process in MB."""
    usage = psutil.Process(pid).memory_full_info()
    return {"rss_mb": round(usage.rss / 1e6, 1), "pss_mb": round(usage.pss / 1e6, 1)}


def run(calls: int) -> dict[str, object]:
    with (
        tempfile.TemporaryDirectory() as folder,
        process([sys.executable, __file__, "--serve-upstream"], {}) as upstream,
    ):
        assert upstream.stdout is not None
        direct = ("127.0.0.1", int(upstream.stdout.readline()))
        registry = Path(folder) / "registry.json"
        entry = RegistryEntry(env_idx=0, uid="bench", epoch=1, url=f"http://127.0.0.1:{direct[1]}")
        write_registry(registry, Registry(envs=(entry,)))
        routed = ("127.0.0.1", free_port())
        environment = {
            "OSWORLD_REGISTRY_FILE": str(registry),
            "OSWORLD_ROUTER_PORT": str(routed[1]),
            "OSWORLD_LOG_LEVEL": "INFO",
        }
        with process([sys.executable, "-m", "osworld_router"], environment) as router:
            wait_for_port(routed)
            time.sleep(IDLE_S)
            idle = memory(router.pid)
            fresh = compare(direct, routed, calls, is_fresh=True)
            kept = compare(direct, routed, calls, is_fresh=False)
            return {
                "reply_bytes": REPLY_BYTES,
                "calls": calls,
                "fresh_connection": fresh,
                "keep_alive": kept,
                "router_idle": idle,
                "router_after": memory(router.pid),
                "large_pool": large_pool_memory(direct, Path(folder)),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--serve-upstream", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_upstream:
        uvloop.run(serve_upstream())
        return
    figures = run(arguments.calls)
    print(json.dumps(figures))
    fresh, kept, idle = figures["fresh_connection"], figures["keep_alive"], figures["router_idle"]
    assert isinstance(fresh, dict)
    assert isinstance(kept, dict)
    assert isinstance(idle, dict)
    large = figures["large_pool"]
    assert isinstance(large, dict)
    print(
        f"router adds {fresh['added_p50_ms']} ms at p50 to a 1.7 MB reply (fresh connections; "
        f"{fresh['direct_p50_ms']} ms without it), {kept['added_p50_ms']} ms with kept ones; "
        f"idle RSS {idle['rss_mb']} MB, PSS {idle['pss_mb']} MB; with {LARGE_POOL} envs, each asked and called once, "
        f"RSS {large['all_called']['rss_mb']} MB"
    )


if __name__ == "__main__":
    main()
