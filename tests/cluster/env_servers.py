"""Stands in for the env servers of pods that KWOK plays: ``/state`` and ``/drain`` as the operator asks them, and calls
of a router.

Every such pod has an address of 127.1.0.0/16, and one listener answers for all. What each is at, a test sets.
"""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cluster.control_plane import ControlPlane
from osworld_contract.names import ENV_SERVER_PORT, HEADER_UID
from osworld_contract.wire import DesktopStatus, EnvState, Phase

TASK = "os/rename"
STEP = 3
"""What the env servers of pods that are not idle say of their episodes."""

BUSY_PHASES = (Phase.RESETTING, Phase.RUNNING, Phase.DONE, Phase.EVALUATING)


class PlayedEnvServers:
    """What the env server of each pod is at, by the pod's uid: addresses are given again."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._lock = threading.Lock()
        self._phases: dict[str, Phase] = {}
        self._drained: set[str] = set()
        self._frozen: set[str] = set()
        self._resets: list[str] = []
        self._end = threading.Event()

    def freeze(self, pod: dict[str, Any]) -> None:
        """Have this pod answer no reset any more."""
        with self._lock:
            self._frozen.add(pod["metadata"]["uid"])

    @property
    def resets(self) -> list[str]:
        """Return the uids of the pods that were asked for a reset, in order."""
        with self._lock:
            return list(self._resets)

    def end(self) -> None:
        """Let go of the callers that wait for an answer."""
        self._end.set()

    def set_phase(self, pod: dict[str, Any], phase: Phase) -> None:
        with self._lock:
            self._phases[pod["metadata"]["uid"]] = phase

    def is_drained(self, pod: dict[str, Any]) -> bool:
        with self._lock:
            return pod["metadata"]["uid"] in self._drained

    def answer(self, method: str, path: str, address: str, meant: str | None) -> tuple[int, bytes]:
        uid = self._uid_at(address)
        if path == "/livez":
            return 200, b"{}"
        if meant != uid:
            return 421, json.dumps({"fault": {"kind": "client", "reason": "wrong_server"}}).encode()
        if path == "/env/reset":
            return 200, self._reset(uid)
        with self._lock:
            phase = self._phases.get(uid, Phase.IDLE)
            if method == "POST" and phase in BUSY_PHASES:
                return 409, json.dumps({"fault": {"kind": "client", "reason": "busy"}}).encode()
            if method == "POST":
                self._drained.add(uid)
            state = EnvState(
                phase=phase,
                since=time.time(),
                episode_id=None if phase is Phase.IDLE else "e1",
                task_id=None if phase is Phase.IDLE else TASK,
                step=0 if phase is Phase.IDLE else STEP,
                predictions=0 if phase is Phase.IDLE else STEP,
                is_draining=uid in self._drained,
                desktop=DesktopStatus(provider="xvfb", state="ready"),
                fault=None,
            )
            return 200, state.model_dump_json().encode()

    def _reset(self, uid: str) -> bytes:
        with self._lock:
            self._resets.append(uid)
            is_frozen = uid in self._frozen
        if is_frozen:
            self._end.wait()
        return json.dumps({"env_idx": 0, "obs_messages": [], "is_done": False, "format_reward": 0.0}).encode()

    def _uid_at(self, address: str) -> str:
        found = self._plane.get(f"/api/v1/pods?fieldSelector=status.podIP={address}")["items"]
        return str(max(found, key=lambda pod: pod["metadata"]["creationTimestamp"])["metadata"]["uid"]) if found else ""


@contextlib.contextmanager
def played_env_servers(plane: ControlPlane) -> Iterator[PlayedEnvServers]:
    """Answer for all pods during the block."""
    servers = PlayedEnvServers(plane)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self, method: str) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            address, meant = self.connection.getsockname()[0], self.headers.get(HEADER_UID)
            status, body = servers.answer(method, self.path, address, meant)
            if not self.headers.get("Authorization", "").startswith("Bearer "):
                status, body = 401, b"{}"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._reply("GET")

        def do_POST(self) -> None:
            self._reply("POST")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

    with Server(("0.0.0.0", ENV_SERVER_PORT), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield servers
        finally:
            servers.end()
            server.shutdown()
            thread.join(10)
