"""The env server on virtual machines: a real task played to its score, and what a server that is killed leaves."""

import base64
import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from desktop_probe import desktop_processes
from osworld_envpod.desktops.qemu.argv import QEMU
from server_process import ServerProcess, clean_environment, free_port
from tasks_of import RENAME, task_config
from waiting import wait_until

pytestmark = pytest.mark.timeout(420)
CALL_DEADLINE_S = 240.0
WAITS_MAX = 40


def _server(folder: Path) -> ServerProcess:
    port = free_port()
    variables = {"PROVIDER": "qemu", "OSWORLD_PORT": str(port), "OSWORLD_MAX_STEPS": "60"}
    return ServerProcess("osworld_envpod", folder, clean_environment(**variables), port)


def _post(server: ServerProcess, path: str, body: object) -> dict[str, Any]:
    reply = httpx.post(server.url + path, json=body, timeout=CALL_DEADLINE_S)
    assert reply.status_code == 200, reply.text[:1000]
    content: dict[str, Any] = reply.json()
    return content


def _step(server: ServerProcess, action: str) -> dict[str, Any]:
    return _post(server, "/env/step", {"prediction": f"Thought: go on.\nAction: {action}"})


def test_a_task_is_set_up_played_and_scored_in_a_machine_that_is_paused_between_steps(tmp_path: Path) -> None:
    with _server(tmp_path) as server:
        server.wait_ready()
        health = httpx.get(server.url + "/health", timeout=10).json()
        assert (health["provider"], health["status"]) == ("qemu", "ok")
        assert health["kvm_available"] is (health["accelerator"] == "kvm")
        proof = subprocess.run(
            [sys.executable, "-m", "osworld_envpod.desktops.qemu", "--prove-kvm"],
            capture_output=True,
            timeout=60,
            check=False,
            env=clean_environment(),
        )
        assert json.loads(proof.stdout)["works"] is health["kvm_available"], proof
        assert [_play(server, renames=renames) for renames in (True, False)] == [1.0, 0.0]


def _play(server: ServerProcess, *, renames: bool) -> float:
    """Play the task and return its score."""
    reset = _post(server, "/env/reset", {"task_config": task_config(RENAME)})
    if renames:
        _step(server, "hotkey(key='ctrl alt t')")
        empty = _middle(reset)
        for _ in range(WAITS_MAX):  # a wait lets the paused machine run on; under emulation a terminal takes its time
            if _middle(_step(server, "wait()")) != empty:
                break
        _step(server, "wait()")
        _step(server, "type(content='mv ~/Desktop/todo_list_Jan_1 ~/Desktop/todo_list_Jan_2\\n')")
        _step(server, "wait()")
    assert _step(server, "finished(content='done')")["is_done"] is True
    score = httpx.post(server.url + "/env/evaluate", json={}, timeout=CALL_DEADLINE_S).json()
    assert isinstance(score, float)
    return score


def _middle(reply: dict[str, Any]) -> bytes:
    """Return the middle of the last screen in `reply`."""
    part = reply["obs_messages"][-1]["content"][-1]
    image = Image.open(io.BytesIO(base64.b64decode(part["b64"]))).convert("RGB")
    return image.crop((800, 400, 1000, 500)).tobytes()


def test_a_server_that_is_killed_takes_its_machines_along(tmp_path: Path) -> None:
    with _server(tmp_path) as server:
        server.wait_ready()
        machines = desktop_processes(server.pid, QEMU)
        assert machines
        server.stop(signal.SIGKILL)
        wait_until(lambda: not any(_runs(machine) for machine in machines), 10, "no QEMU")


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
