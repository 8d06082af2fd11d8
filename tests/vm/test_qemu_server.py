"""The env server on virtual machines: a real task played to its score, and what a server that is killed leaves."""

import base64
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from desktop_probe import desktop_processes
from osworld_contract.places import vm_template_dir
from osworld_contract.replay import HEADER_SIGHT, Mark
from osworld_env.host_facts import PROOF_DEADLINE_S
from osworld_env.ports import free_port
from osworld_envpod.desktops.qemu.accelerator import KVM_DEVICE, KvmProof
from osworld_envpod.desktops.qemu.argv import QEMU
from process_looks import runs
from server_process import ServerProcess, clean_environment
from task_parts import EVALUATOR, execute, shell_result
from tasks_of import RENAME, task_config
from vm_fixtures import START_DEADLINE_S, TEST_TIMEOUT_S
from waiting import wait_until
from whole_disk import whole_disk

pytestmark = pytest.mark.timeout(TEST_TIMEOUT_S)
CALL_DEADLINE_S = 240.0
WAITS_MAX = 40


def _server(folder: Path, **more: str) -> ServerProcess:
    port = free_port()
    variables = {"PROVIDER": "qemu", "OSWORLD_PORT": str(port), "OSWORLD_MAX_STEPS": "60", **more}
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
        server.wait_ready(deadline_s=START_DEADLINE_S)
        health = httpx.get(server.url + "/health", timeout=10).json()
        assert (health["provider"], health["status"]) == ("qemu", "ok")
        assert health["kvm_available"] is (health["accelerator"] == "kvm")
        began_s = time.monotonic()
        proof = subprocess.run(
            [sys.executable, "-m", "osworld_envpod.desktops.qemu", "--prove-kvm"],
            capture_output=True,
            timeout=PROOF_DEADLINE_S,
            check=False,
            env=clean_environment(),
        )
        assert json.loads(proof.stdout)["works"] is health["kvm_available"], proof
        if KVM_DEVICE.exists():
            kept = KvmProof.model_validate_json((vm_template_dir() / "kvm-proof.json").read_bytes())
            assert kept.made_at_s > began_s, "who asks for a boot gets one"
        assert [_play(server, renames=renames) for renames in (True, False, True)] == [1.0, 0.0, 1.0]
        reset = httpx.post(
            server.url + "/env/reset", json={"task_config": task_config(RENAME)}, timeout=CALL_DEADLINE_S
        )
        mark = Mark.parse(reset.headers[HEADER_SIGHT])
        assert mark is not None and mark.stands_still
        metrics = httpx.get(server.url + "/metrics", timeout=10).text
        shown = re.findall(
            r'^osworld_desktop_accelerator\{accelerator="(\w+)",wanted="auto"\} 1\.0', metrics, re.MULTILINE
        )
        assert shown == [health["accelerator"]]
        forked = float(re.findall(r'^osworld_forks_total\{source="task"\} (\S+)', metrics, re.MULTILINE)[0])
        assert forked >= 2, "what was set up once is forked; a run before may have left the first one too"


@pytest.mark.long
def test_a_task_is_played_and_scored_on_a_whole_disk_by_osworlds_paths_alone(tmp_path: Path) -> None:
    disk = {"OSWORLD_QEMU_IMAGE": str(whole_disk()), "OSWORLD_QEMU_MEMORY_MIB": "1024"}
    with _server(tmp_path, **disk) as server:
        server.wait_ready(deadline_s=START_DEADLINE_S)
        assert _play(server, renames=True) == 1.0
        state = httpx.get(server.url + "/state", timeout=10).json()
        assert state["desktop"]["facts"]["proof"] == "marks", state


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


def _agent_gets(how: str) -> str:
    return f"pkill -{how} -f 'osworld_guest --displa[y]-fd'; echo yes"


@pytest.mark.long
@pytest.mark.parametrize("how", ["KILL", "STOP"])
def test_a_guest_agent_that_ends_or_hangs_in_setup_or_evaluate_is_a_fault_and_the_next_episode_is_clean(
    tmp_path: Path, how: str
) -> None:
    """In setup and evaluate its own command does it: nobody else knows when they are under way."""
    broken = EVALUATOR | {"result": shell_result(_agent_gets(how))}
    in_setup = {"instruction": "wait", "config": [execute(_agent_gets(how))], "evaluator": EVALUATOR}
    in_evaluate = {"instruction": "wait", "config": [], "evaluator": broken}
    deadlines = {"OSWORLD_RESET_TIMEOUT_S": "60", "OSWORLD_EVALUATE_TIMEOUT_S": "20"}
    with _server(tmp_path, **deadlines) as server:
        server.wait_ready(deadline_s=START_DEADLINE_S)
        reply = httpx.post(server.url + "/env/reset", json={"task_config": in_setup}, timeout=CALL_DEADLINE_S)
        assert reply.status_code >= 500 and reply.json()["fault"]["masked"], reply.text[:1000]
        _post(server, "/env/reset", {"task_config": in_evaluate})
        reply = httpx.post(server.url + "/env/evaluate", json={}, timeout=CALL_DEADLINE_S)
        assert reply.status_code >= 500 and reply.json()["fault"]["masked"], reply.text[:1000]
        assert _play(server, renames=False) == 0.0


CLOCK_BACK = "echo password | sudo -S -p '' date -s '-1 hour'"
"""What an hour of pauses does to a guest's clock."""


def test_an_evaluator_sees_the_time_of_now_in_a_machine_that_stood_still_or_there_is_no_score(tmp_path: Path) -> None:
    asks = f"touch ~/now; test $(stat -c %Y ~/now) -ge {int(time.time())} && echo yes"
    evaluator = EVALUATOR | {"result": shell_result(asks)}
    replies = []
    with _server(tmp_path) as server:
        server.wait_ready(deadline_s=START_DEADLINE_S)
        for broken in ("true", "systemctl stop osworld-root"):
            setup = execute(f"{CLOCK_BACK}; echo password | sudo -S -p '' {broken}")
            task = {"instruction": "wait", "config": [setup], "evaluator": evaluator}
            _post(server, "/env/reset", {"task_config": task})
            _step(server, "wait()")
            replies.append(httpx.post(server.url + "/env/evaluate", json={}, timeout=CALL_DEADLINE_S))
    stepped, stuck = replies
    assert (stepped.status_code, stepped.json()) == (200, 1.0)
    fault = stuck.json()["fault"]
    assert (stuck.status_code, fault["reason"], fault["masked"]) == (503, "action_failed", True), fault
    assert "could not be set" in fault["message"]


def _middle(reply: dict[str, Any]) -> bytes:
    """Return the middle of the last screen in `reply`."""
    part = reply["obs_messages"][-1]["content"][-1]
    image = Image.open(io.BytesIO(base64.b64decode(part["b64"]))).convert("RGB")
    return image.crop((800, 400, 1000, 500)).tobytes()


def test_a_server_that_is_killed_takes_its_machines_along(tmp_path: Path) -> None:
    with _server(tmp_path) as server:
        server.wait_ready(deadline_s=START_DEADLINE_S)
        machines = desktop_processes(server.pid, QEMU)
        assert machines
        server.stop(signal.SIGKILL)
        wait_until(lambda: not any(runs(machine) for machine in machines), 30, "no QEMU")
