"""Things that break in the middle of an operation: a named fault inside the deadline, and a clean next reset."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from desktop_probe import desktop_processes
from server_process import ServerProcess, env_server, post
from tasks_of import RENAME, task_config
from waiting import wait_until

VICTIMS = {"guest agent": "osworld_guest --display", "X server": "Xvfb", "worker": "__main__.py worker"}
"""Who is killed: a part of the command line of its process."""

SLOW_TASK = {
    "id": "slow",
    "instruction": "wait",
    "config": [{"type": "execute", "parameters": {"command": ["sleep", "4"]}}],
    "evaluator": {
        "func": "exact_match",
        "result": {"type": "vm_command_line", "command": ["bash", "-c", "sleep 4; echo here"]},
        "expected": {"type": "rule", "rules": {"expected": "here\n"}},
    },
}
SLOW_STEP = "Thought: type.\nAction: type(content='" + "x" * 60 + "')"
SLOW_STEP_S = 6.0
SHORT_STEP_S = 15.0
"""Less than what a guest is given beyond the time that an action itself asks for."""
DEADLINE_S = 90.0
"""Far below the operations' own deadlines of 120 to 360 s: a death is noticed, not waited out."""


def phase_is(server: ServerProcess, *phases: str) -> bool:
    return httpx.get(server.url + "/state", timeout=5).json()["phase"] in phases


def kill_while(
    server: ServerProcess, victim: str, path: str, body: Any, phase: str, number: int = signal.SIGKILL
) -> httpx.Response:
    """Kill `victim`, or send it another signal, while `path` is under way, and return the reply."""
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(post, server, path, body)
        wait_until(lambda: phase_is(server, phase), 30, f"phase {phase}")
        if path == "/env/step":
            wait_until(lambda: "step_parse" in server.log.rsplit("Reset OK", 1)[1], 30, "the step's start")
        else:
            wait_until(lambda: desktop_processes(server.pid, "sleep 4"), 30, "the slow command in the desktop")
        targets = desktop_processes(server.pid, VICTIMS[victim])
        assert targets, f"no process of the {victim}"
        for target in targets:
            with suppress(psutil.NoSuchProcess):  # ended with the one before it
                target.send_signal(number)
        return reply.result()


def assert_next_episode_is_clean(server: ServerProcess) -> None:
    reply = post(server, "/env/reset", {"task_config": task_config(RENAME)})
    assert reply.status_code == 200, reply.text[:500]
    assert post(server, "/env/step", {"prediction": "Thought: done.\nAction: finished(content='x')"}).json()["is_done"]
    score = post(server, "/env/evaluate")
    assert (score.status_code, score.json()) == (200, 0.0)


@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_in_a_reset_it_is_tried_again_out_of_sight(server: ServerProcess, victim: str) -> None:
    before = len(server.log)
    reply = kill_while(server, victim, "/env/reset", {"task_config": SLOW_TASK}, "resetting")
    assert reply.status_code == 200, reply.text[:500]
    assert len(reply.json()["obs_messages"]) == 3
    assert "Env reset exception: infra/" in server.log[before:]
    assert_next_episode_is_clean(server)


@pytest.mark.parametrize("victim", ["guest agent", "X server"])
def test_killed_in_a_step_it_is_a_fault_and_neither_penalty_nor_score(server: ServerProcess, victim: str) -> None:
    assert post(server, "/env/reset", {"task_config": task_config(RENAME)}).status_code == 200
    reply = kill_while(server, victim, "/env/step", {"prediction": SLOW_STEP}, "running")
    assert reply.status_code == 200
    content = reply.json()
    assert (content["obs_messages"], content["is_done"], content["format_reward"]) == (None, True, 0.0)
    assert (content["fault"]["kind"], content["fault"]["masked"]) == ("infra", True)
    assert reply.headers["X-Osworld-Fault"].startswith("infra/")
    score = post(server, "/env/evaluate")
    assert (score.status_code, score.json()["fault"]["reason"]) == (503, content["fault"]["reason"])
    assert_next_episode_is_clean(server)


@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_in_an_evaluate_there_is_no_score(server: ServerProcess, victim: str) -> None:
    assert post(server, "/env/reset", {"task_config": SLOW_TASK}).status_code == 200
    reply = kill_while(server, victim, "/env/evaluate", {}, "evaluating")
    assert 500 <= reply.status_code < 600
    assert reply.json()["fault"]["masked"]
    assert reply.json()["fault"]["kind"] in {"infra", "evaluator"}
    again = post(server, "/env/evaluate")
    if victim == "worker":
        assert again.json() == 1.0, "nothing was changed by the failed try, and the desktop still lives"
    else:
        assert again.json()["fault"]["kind"] in {"infra", "evaluator"}
    assert_next_episode_is_clean(server)


def test_a_desktop_that_dies_while_the_model_thinks_is_noticed(server: ServerProcess) -> None:
    assert post(server, "/env/reset", {"task_config": task_config(RENAME)}).status_code == 200
    for target in desktop_processes(server.pid, "Xvfb"):
        target.kill()
    wait_until(lambda: phase_is(server, "faulted"), 30, "phase faulted")
    reply = post(server, "/env/step", {"prediction": SLOW_STEP}).json()
    assert (reply["is_done"], reply["format_reward"], reply["fault"]["reason"]) == (True, 0.0, "desktop_lost")
    assert_next_episode_is_clean(server)


def test_an_operation_that_hangs_ends_by_its_deadline(tmp_path: Path) -> None:
    hang = {**SLOW_TASK, "config": [{"type": "execute", "parameters": {"command": ["sleep", "600"]}}]}
    with env_server(tmp_path, OSWORLD_RESET_TIMEOUT_S="8", OSWORLD_STEP_TIMEOUT_S="6") as server:
        server.wait_ready()
        began = time.monotonic()
        reply = post(server, "/env/reset", {"task_config": hang})
        assert time.monotonic() - began < 12
        assert (reply.status_code, reply.json()["fault"]["reason"]) == (504, "setup_timeout")
        assert post(server, "/env/evaluate").status_code == 503


@pytest.mark.timeout(240)
def test_with_a_short_deadline_actions_are_carried_out_and_a_stopped_desktop_is_a_fault(tmp_path: Path) -> None:
    with env_server(tmp_path, OSWORLD_STEP_TIMEOUT_S=f"{SHORT_STEP_S:g}") as server:
        server.wait_ready()
        assert post(server, "/env/reset", {"task_config": task_config(RENAME)}).status_code == 200
        began = time.monotonic()
        assert not post(server, "/env/step", {"prediction": SLOW_STEP}).json()["is_done"]
        assert time.monotonic() - began > SLOW_STEP_S, "it was typed"
        began = time.monotonic()
        reply = kill_while(server, "X server", "/env/step", {"prediction": SLOW_STEP}, "running", signal.SIGSTOP).json()
        assert time.monotonic() - began < SHORT_STEP_S + 5
        assert (reply["is_done"], reply["format_reward"], reply["fault"]["masked"]) == (True, 0.0, True)
        assert post(server, "/env/evaluate").status_code == 503
        assert_next_episode_is_clean(server)


def test_an_episode_that_nobody_continues_ends(tmp_path: Path) -> None:
    with env_server(tmp_path, OSWORLD_IDLE_TIMEOUT_S="2") as server:
        server.wait_ready()
        assert post(server, "/env/reset", {"task_config": task_config(RENAME)}).status_code == 200
        wait_until(lambda: phase_is(server, "idle"), 20, "phase idle")
        reply = post(server, "/env/step", {"prediction": SLOW_STEP}).json()
        assert (reply["is_done"], reply["fault"]["reason"]) == (True, "no_episode")
        assert_next_episode_is_clean(server)


def test_a_stop_lets_the_step_finish_and_leaves_no_process(own_server: ServerProcess) -> None:
    assert post(own_server, "/env/reset", {"task_config": task_config(RENAME)}).status_code == 200
    below = psutil.Process(own_server.pid).children(recursive=True)
    assert below
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(post, own_server, "/env/step", {"prediction": SLOW_STEP})
        wait_until(lambda: "step_parse" in own_server.log, 30, "the step's start")
        assert own_server.stop() == 0
        assert reply.result().status_code == 200
        assert reply.result().json()["is_done"] is False
    gone, alive = psutil.wait_procs(below, timeout=10)
    assert not alive
    assert gone


def test_a_drained_env_does_not_repair_its_desktop(own_server: ServerProcess) -> None:
    assert post(own_server, "/drain").json()["is_draining"]
    for target in desktop_processes(own_server.pid, VICTIMS["X server"]):
        target.kill()
    # Seen by the keeper, which would begin the repair in the same tick.
    wait_until(lambda: "osworld_desktop_up 0.0" in httpx.get(own_server.url + "/metrics").text, DEADLINE_S, "the end")
    assert httpx.get(own_server.url + "/state").json()["desktop"]["state"] == "failed"


def test_a_killed_env_server_leaves_no_process(own_server: ServerProcess) -> None:
    below = psutil.Process(own_server.pid).children(recursive=True)
    psutil.Process(own_server.pid).kill()
    _, alive = psutil.wait_procs(below, timeout=15)
    assert not alive
