"""Parts of tasks, and guests that fail on demand, for the task worker's tests."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import psutil

from osworld_contract.task import Task, parse_task
from osworld_envpod.desktops.base import GuestAddresses

EVALUATOR: Final = {
    "func": "exact_match",
    "result": {"type": "vm_command_line", "command": "echo yes", "shell": True},
    "expected": {"type": "rule", "rules": {"expected": "yes\n"}},
}


def execute(command: str | list[str]) -> dict[str, Any]:
    """Return a setup step that runs `command`, in a shell if it is a text."""
    return {"type": "execute", "parameters": {"command": command, "shell": isinstance(command, str)}}


def a_task(*steps: dict[str, Any], evaluator: dict[str, Any] | None = None, **changes: Any) -> Task:
    """Return a task with these setup steps, whose evaluator gives 1.0; `changes` are made to the evaluator."""
    return parse_task({"instruction": "test", "config": list(steps), "evaluator": (evaluator or EVALUATOR) | changes})


def shell_result(command: str) -> dict[str, Any]:
    """Return a getter that runs `command` in the desktop's shell."""
    return {"type": "vm_command_line", "command": command, "shell": True}


def session_processes(session: int) -> list[int]:
    """Return the living processes of a worker's session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


class Handler(BaseHTTPRequestHandler):
    """Answers as a guest agent with nothing in it; `misbehave` may answer first, by returning True."""

    misbehave: Callable[["Handler"], bool]

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def answer(self, status: int, body: object, *, promise: int = 0) -> None:
        """Send `body` as JSON, or as it is if it is bytes; `promise` bytes more than that are announced."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if isinstance(body, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data) + promise))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        """Answer any GET."""
        self.do_POST()

    def do_POST(self) -> None:
        """Answer any POST."""
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not type(self).misbehave(self):
            ok = {"status": "success", "output": "yes\n", "error": "", "returncode": 0, "width": 1920, "height": 1080}
            self.answer(200, ok)


def well(_: Handler) -> bool:
    """Misbehave in nothing."""
    return False


@contextmanager
def http_server(misbehave: Callable[[Handler], bool]) -> Iterator[int]:
    """Serve on a loopback port, which is yielded."""
    kind = type("OwnHandler", (Handler,), {"misbehave": staticmethod(misbehave)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def guest_at(port: int) -> GuestAddresses:
    """Return the addresses of a guest of which only the agent is there."""
    return GuestAddresses(host="127.0.0.1", server_port=port, chromium_port=9, vlc_port=9, vnc_port=9)
