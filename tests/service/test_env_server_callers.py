"""Callers that hang up, and callers that are refused: whom a score is for is never guessed."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from server_process import ServerProcess, post
from tasks_of import RENAME, task_config
from waiting import wait_until

SLOW_TASK = {
    "id": "slow",
    "instruction": "wait",
    "config": [{"type": "execute", "parameters": {"command": ["sleep", "3"]}}],
    "evaluator": {
        "func": "exact_match",
        "result": {"type": "vm_command_line", "command": ["bash", "-c", "sleep 3; echo here"]},
        "expected": {"type": "rule", "rules": {"expected": "here\n"}},
    },
}
SLOW_STEP = "Thought: type.\nAction: type(content='" + "x" * 60 + "')"
FINISHED = "Thought: done.\nAction: finished(content='done')"
NOTICE_DEADLINE_S = 30.0


def reset(server: ServerProcess) -> None:
    reply = post(server, "/env/reset", {"task_config": task_config(RENAME)})
    assert reply.status_code == 200, reply.text[:500]


def phase(server: ServerProcess) -> str:
    return str(httpx.get(server.url + "/state", timeout=5).json()["phase"])


def hang_up_during(server: ServerProcess, path: str, body: Any, sign: str, **headers: str) -> None:
    """Make a call and close the connection once `sign` of its being under way is in the log or is the phase."""
    seen = len(server.log)
    content = json.dumps(body).encode()
    lines = {"Host": "env", "Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.create_connection(("127.0.0.1", server.port)) as caller:
        caller.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content)
        wait_until(lambda: phase(server) == sign or sign in server.log[seen:], NOTICE_DEADLINE_S, sign)


def test_after_a_hang_up_in_a_reset_the_next_reset_is_not_refused(server: ServerProcess) -> None:
    hang_up_during(server, "/env/reset", {"task_config": SLOW_TASK}, "resetting")
    reset(server)
    assert post(server, "/env/step", {"prediction": FINISHED}).json()["is_done"]
    assert post(server, "/env/evaluate").json() == 0.0


def test_a_reset_that_is_sent_twice_waits_twice_and_is_made_once(server: ServerProcess) -> None:
    """As a router does that finds it late: its first try waits for what was abandoned, and so does the second."""
    hang_up_during(server, "/env/reset", {"task_config": SLOW_TASK}, "resetting")
    seen = len(server.log)
    body = {"task_config": task_config(RENAME)}
    with ThreadPoolExecutor(2) as threads:
        tries = [threads.submit(post, server, "/env/reset", body, **{"Idempotency-Key": "twice"}) for _ in range(2)]
        assert [call.result().status_code for call in tries] == [200, 200]
    assert server.log[seen:].count(" begins: task=") == 1


def test_after_a_hang_up_in_an_evaluate_the_next_reset_is_not_refused(server: ServerProcess) -> None:
    assert post(server, "/env/reset", {"task_config": SLOW_TASK}).status_code == 200
    hang_up_during(server, "/env/evaluate", {}, "evaluating")
    reset(server)
    assert post(server, "/env/evaluate").json() == 0.0, "the score of this episode, not of the one before"


def test_a_reset_that_nobody_saw_has_no_score(server: ServerProcess) -> None:
    hang_up_during(server, "/env/reset", {"task_config": SLOW_TASK}, "resetting")
    wait_until(lambda: phase(server) == "running", NOTICE_DEADLINE_S, "the end of the reset")
    reply = post(server, "/env/evaluate")
    assert (reply.status_code, reply.json()["fault"]["reason"]) == (503, "reply_lost")
    assert reply.json()["fault"]["masked"]


def test_a_step_that_nobody_saw_leaves_no_score_unless_it_is_asked_for_again(server: ServerProcess) -> None:
    reset(server)
    hang_up_during(server, "/env/step", {"prediction": SLOW_STEP}, "step_parse", **{"Idempotency-Key": "slow"})
    reply = post(server, "/env/evaluate")
    assert (reply.status_code, reply.json()["fault"]["reason"]) == (503, "reply_lost")
    again = post(server, "/env/step", {"prediction": SLOW_STEP}, **{"Idempotency-Key": "slow"}).json()
    assert len(again["obs_messages"]) == 5
    assert post(server, "/env/evaluate").json() == 0.0


def test_a_step_is_seen_if_one_of_its_callers_stayed(server: ServerProcess) -> None:
    reset(server)
    key = {"Idempotency-Key": "twice"}
    hang_up_during(server, "/env/step", {"prediction": SLOW_STEP}, "step_parse", **key)
    assert len(post(server, "/env/step", {"prediction": SLOW_STEP}, **key).json()["obs_messages"]) == 5
    assert post(server, "/env/evaluate").json() == 0.0


@pytest.mark.parametrize(
    ("body", "reason"),
    [({"task_config": {"instruction": 3}}, "bad_task"), ({"task": {}}, "bad_request")],
    ids=["bad task", "no task"],
)
def test_after_a_refused_reset_there_is_no_score_of_the_episode_before(
    server: ServerProcess, body: Any, reason: str
) -> None:
    reset(server)
    assert post(server, "/env/step", {"prediction": FINISHED}).json()["is_done"]
    assert post(server, "/env/evaluate").json() == 0.0
    assert post(server, "/env/reset", body).status_code == 422
    reply = post(server, "/env/evaluate")
    assert (reply.status_code, reply.json()["fault"]["reason"]) == (422, reason)
    reset(server)
    assert post(server, "/env/evaluate").json() == 0.0
