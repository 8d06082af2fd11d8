"""The router beside haproxy as the same hop: the throughput of 1.7 MB replies, and what one call takes longer.

Both check a token, take ``/envs/N`` off the path, have one thread, and are pinned to the first processor; clients and
upstream share the rest. Rounds alternate, so that a busy machine slows all alike. A history is passed through by the
router as it comes; a reset and the steps after it are held until they are whole, noted for a replay, and acknowledged.
On a machine that is busy with other work run it under ``chrt -r 1``, so that none of that gets in between. Prints one
JSON object, then one line for people.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import psutil

from benchmarks.bench_router import REPLY_BYTES, REQUEST_BODY, Address, process, wait_for_port
from osworld_contract.registry import Registry, RegistryEntry, write_registry
from osworld_env.ports import free_port

TOKEN = "token-of-the-benchmark"
PROXY_CPU = 0
CLIENTS = 8
CALL_TIMEOUT_S = 30.0
EPISODE = ("/envs/{}/env/reset", *["/envs/{}/env/step"] * 14)

HAPROXY = """
global
    nbthread 1
    maxconn 1000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option http-keep-alive
    http-reuse always
    {option}
frontend trainer
    bind 127.0.0.1:{port}
    acl is_known req.hdr(authorization) -m str "Bearer {token}"
    http-request deny deny_status 401 unless is_known
    http-request replace-path /envs/[0-9]+(/.*) \\1
    default_backend envs
backend envs
    server env0 127.0.0.1:{upstream}
"""


class Connection:
    """A kept connection that makes calls of `paths` in turn, of an env of its own."""

    def __init__(self, address: Address, paths: tuple[str, ...], env_idx: int = 0) -> None:
        self._socket = socket.create_connection(address, CALL_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 20)
        head = f"Host: env\r\nContent-Type: application/json\r\nAuthorization: Bearer {TOKEN}\r\n"
        rest = f"{head}Content-Length: {len(REQUEST_BODY)}\r\n\r\n".encode() + REQUEST_BODY
        self._requests = cycle([f"POST {path.format(env_idx)} HTTP/1.1\r\n".encode() + rest for path in paths])

    def call(self) -> float:
        """Make one call, return its seconds. The body is thrown away as it comes."""
        started = time.perf_counter()
        self._socket.sendall(next(self._requests))
        start = b""
        while b"\r\n\r\n" not in start:
            count = self._socket.recv_into(self._buffer, 65536)
            start += self._buffer[:count]
            if not count or not start.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"no reply: {start[:300]!r}")
        left = REPLY_BYTES - (len(start) - start.index(b"\r\n\r\n") - 4)
        while left:
            count = self._socket.recv_into(self._buffer, min(left, len(self._buffer)))
            if not count:
                raise RuntimeError(f"the reply ended {left} bytes early")
            left -= count
        return time.perf_counter() - started

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True)
class Way:
    """One way to the upstream."""

    address: Address
    paths: tuple[str, ...]
    proxy: psutil.Process | None = None


def throughput(way: Way, seconds: float) -> tuple[float, float]:
    """Return calls per second of `CLIENTS` kept connections over `seconds`, and the proxy's CPU in ms of each call."""
    connections = [Connection(way.address, way.paths, number) for number in range(CLIENTS)]
    counts, errors = [0] * CLIENTS, list[BaseException]()
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        try:
            while time.perf_counter() < end:
                connections[number].call()
                counts[number] += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    started, used_s = time.perf_counter(), _cpu_s(way.proxy)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    for connection in connections:
        connection.close()
    if errors:
        raise errors[0]
    return sum(counts) / elapsed, (_cpu_s(way.proxy) - used_s) * 1000 / sum(counts)


def _cpu_s(proxy: psutil.Process | None) -> float:
    return sum(proxy.cpu_times()[:2]) if proxy else 0.0


@contextmanager
def hops(folder: Path, option: str) -> Iterator[dict[str, Way]]:
    """Start upstream and both proxies; give the address and path of each way."""
    cpus = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        upstream = stack.enter_context(
            process([sys.executable, str(Path(__file__).with_name("bench_router.py")), "--serve-upstream"], {})
        )
        assert upstream.stdout is not None
        direct = ("127.0.0.1", int(upstream.stdout.readline()))
        registry = folder / "registry.json"
        url = f"http://127.0.0.1:{direct[1]}"
        entries = [RegistryEntry(env_idx=idx, uid=f"bench-{idx}", epoch=1, url=url) for idx in range(CLIENTS)]
        write_registry(registry, Registry(envs=tuple(entries)))
        routed, balanced = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
        settings = {
            "OSWORLD_REGISTRY_FILE": str(registry),
            "OSWORLD_ROUTER_PORT": str(routed[1]),
            "OSWORLD_TOKEN": TOKEN,
            "OSWORLD_UPSTREAM_TOKEN": TOKEN,
            "OSWORLD_LOG_LEVEL": "WARNING",  # haproxy writes no line for a call either
        }
        router = stack.enter_context(process([sys.executable, "-m", "osworld_router"], settings))
        config = folder / "haproxy.cfg"
        config.write_text(HAPROXY.format(port=balanced[1], upstream=direct[1], token=TOKEN, option=option))
        haproxy = stack.enter_context(process([shutil.which("haproxy") or "haproxy", "-f", str(config)], {}))
        for pid in (router.pid, haproxy.pid):
            psutil.Process(pid).cpu_affinity([cpus[PROXY_CPU]])
        if len(cpus) > 1:
            for pid in (upstream.pid, os.getpid()):
                psutil.Process(pid).cpu_affinity(cpus[1:])
        for address in (routed, balanced):
            wait_for_port(address)
        yield {
            "direct": Way(direct, ("/env/step",)),
            "haproxy": Way(balanced, ("/envs/{}/env/step",), psutil.Process(haproxy.pid)),
            "passed": Way(routed, ("/envs/{}/env/history_messages",), psutil.Process(router.pid)),
            "teed": Way(routed, EPISODE, psutil.Process(router.pid)),
        }


def run(rounds: int, seconds: float, calls: int, option: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, hops(Path(folder), option) as ways:
        rates: dict[str, list[float]] = {way: [] for way in ways}
        times_ms: dict[str, list[float]] = {way: [] for way in ways}
        cpus_ms: dict[str, list[float]] = {way: [] for way in ways}
        for way in ways.values():
            throughput(way, 1.0)
        for _ in range(rounds):
            for name, way in ways.items():
                rate, cpu_ms = throughput(way, seconds)
                rates[name].append(rate)
                cpus_ms[name].append(cpu_ms)
        kept = {name: Connection(way.address, way.paths) for name, way in ways.items()}
        for _ in range(calls):
            for name, connection in kept.items():
                times_ms[name].append(connection.call() * 1000)
        for connection in kept.values():
            connection.close()
    figures = {f"{name}_per_s": round(statistics.median(rates[name]), 1) for name in ways}
    figures |= {f"{name}_cpu_ms": round(statistics.median(cpus_ms[name]), 3) for name in ways}
    figures |= {f"{name}_p50_ms": round(statistics.median(times_ms[name]), 3) for name in ways}
    for name in ("passed", "teed"):
        ratio = statistics.median(ours / theirs for ours, theirs in zip(rates[name], rates["haproxy"], strict=True))
        figures[f"{name}_to_haproxy"] = round(ratio, 3)
        figures[f"{name}_cpu_to_haproxy"] = round(figures["haproxy_cpu_ms"] / figures[f"{name}_cpu_ms"], 3)
        figures[f"{name}_beyond_haproxy_ms"] = round(figures[f"{name}_p50_ms"] - figures["haproxy_p50_ms"], 3)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--haproxy", default="", metavar="LINE", help="one more line for haproxy's defaults")
    arguments = parser.parse_args()
    figures = run(arguments.rounds, arguments.seconds, arguments.calls, arguments.haproxy)
    print(json.dumps(figures))
    print(
        f"router to haproxy, {CLIENTS} kept connections, 1.7 MB: {figures['passed_to_haproxy']}x passed through, "
        f"{figures['teed_to_haproxy']}x held; p50 {figures['passed_beyond_haproxy_ms']} and "
        f"{figures['teed_beyond_haproxy_ms']} ms beyond haproxy's {figures['haproxy_p50_ms']} ms"
    )


if __name__ == "__main__":
    main()
