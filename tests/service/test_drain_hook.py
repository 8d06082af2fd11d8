"""The preStop hook against an HTTP server that answers as an env server does: 409 while an episode is under way."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

TOKEN = "pool-internal"


@contextmanager
def env_server(statuses: list[int]) -> Iterator[tuple[int, list[tuple[str, str | None]]]]:
    """Serve `statuses`, the last one for ever; give the port and the calls that came."""
    calls: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            calls.append((self.path, self.headers.get("Authorization")))
            self.send_response(statuses[min(len(calls), len(statuses)) - 1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, calls
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def start_hook(port: int, deadline_s: float, *more: str) -> "subprocess.Popen[bytes]":
    variables = {"PROVIDER": "xvfb", "OSWORLD_PORT": str(port), "OSWORLD_TOKEN": TOKEN}
    command = [sys.executable, "-m", "osworld_envpod.drain", "--deadline-s", str(deadline_s), *more]
    return subprocess.Popen(command, env={**os.environ, **variables})


def run_hook(port: int, deadline_s: float, *more: str) -> None:
    with start_hook(port, deadline_s, *more) as hook:
        assert hook.wait(100) == 0


def test_the_hook_ends_when_the_episode_has_ended() -> None:
    with env_server([409, 409, 200]) as (port, calls):
        run_hook(port, 90)
    assert calls == [("/drain", f"Bearer {TOKEN}")] * 3


def test_the_hook_waits_no_longer_than_its_deadline() -> None:
    with env_server([409]) as (port, calls):
        run_hook(port, 1.5)
    assert calls


def test_an_env_server_that_starts_is_waited_for() -> None:
    """The first process of a container does not hear of SIGTERM before it handles it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with start_hook(port, 90, "--start-s", "60") as hook:
            with pytest.raises(subprocess.TimeoutExpired):
                hook.wait(5)
            taken.listen()
            taken.settimeout(30)
            connection, _ = taken.accept()
            with connection:
                assert connection.recv(1000).startswith(b"POST /drain ")
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                assert hook.wait(30) == 0


def test_an_env_server_that_is_not_there_is_not_waited_for_long() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and never listening: nobody else can take the port meanwhile
        run_hook(taken.getsockname()[1], 90, "--start-s", "1")
