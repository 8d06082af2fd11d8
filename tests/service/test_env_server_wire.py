"""The trainer's wire against a real env server, desktop and task worker."""

import base64
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from PIL import Image

from desktop_probe import guest_execute
from server_process import ServerProcess
from tasks_of import INFEASIBLE, RENAME, task_config
from trainer_client import TrainerClient
from waiting import wait_until

WAIT = "Thought: look.\nAction: wait()"
FINISHED = "Thought: done.\nAction: finished(content='done')"
FAIL = "Thought: it cannot be done.\nAction: call_user()"
JSON = {"Content-Type": "application/json"}
TERMINAL = "Thought: open a terminal.\nAction: hotkey(key='ctrl alt t')"


def post(server: ServerProcess, path: str, body: Any = None, **options: Any) -> httpx.Response:
    return httpx.post(server.url + path, json={} if body is None else body, timeout=300, **options)


def reset(server: ServerProcess, task: str = RENAME, **options: Any) -> dict[str, Any]:
    reply = post(server, "/env/reset", {"task_config": task_config(task)}, **options)
    assert reply.status_code == 200, reply.text[:500]
    content: dict[str, Any] = reply.json()
    return content


def step(server: ServerProcess, prediction: str, **options: Any) -> dict[str, Any]:
    reply = post(server, "/env/step", {"prediction": prediction}, **options)
    assert reply.status_code == 200, reply.text[:500]
    content: dict[str, Any] = reply.json()
    return content


def typed(text: str) -> str:
    return f"Thought: type.\nAction: type(content='{text}')"


def open_terminal(server: ServerProcess) -> None:
    """Open a terminal by keyboard and wait until its window is there."""
    step(server, TERMINAL)
    wait_until(lambda: "Terminal" in guest_execute(server.pid, "wmctrl -l"), 20, "a terminal window")


def test_a_reset_replies_with_three_messages_and_the_guests_png(server: ServerProcess) -> None:
    reply = reset(server, headers={"X-Env-Idx": "7"})
    assert set(reply) == {"env_idx", "obs_messages", "is_done", "format_reward"}
    assert (reply["env_idx"], reply["is_done"], reply["format_reward"]) == (7, False, 0.0)
    system, user, image = reply["obs_messages"]
    assert system == {"role": "system", "content": [{"type": "text", "text": "Your are a helpful assistant."}]}
    assert user["content"][0]["text"].rstrip().endswith(task_config(RENAME)["instruction"])
    (item,) = image["content"]
    assert {key: item[key] for key in ("type", "min_pixels", "max_pixels")} == {
        "type": "image",
        "min_pixels": 3136,
        "max_pixels": 2116800,
    }
    screen = Image.open(io.BytesIO(base64.b64decode(item["b64"])))
    assert (screen.format, screen.size) == ("PNG", (1920, 1080))


def test_a_step_adds_two_messages_and_since_sends_only_what_is_new(server: ServerProcess) -> None:
    reset(server)
    whole = step(server, "Thought: look.\nAction: click(start_box='(960,546)')")
    assert [message["role"] for message in whole["obs_messages"]] == ["system", "user", "user", "assistant", "user"]
    assert "<|box_start|>(960,546)<|box_end|>" in whole["obs_messages"][3]["content"][0]["text"]
    part = post(server, "/env/step?since=5", {"prediction": WAIT}).json()
    assert (len(part["obs_messages"]), part["first"]) == (2, 5)
    history = post(server, "/env/history_messages").json()["history_messages"]
    assert len(history) == 7
    assert history[:5] == whole["obs_messages"]
    assert history[5:] == part["obs_messages"]
    assert post(server, "/env/history_messages?since=6").json()["history_messages"] == history[6:]


def test_the_folder_is_renamed_through_the_gui_and_scored_by_osworld(server: ServerProcess) -> None:
    client = TrainerClient(server.url)
    assert client.reset(task_config(RENAME)).is_legal
    open_terminal(server)
    going = client.step(typed("mv ~/Desktop/todo_list_Jan_1 ~/Desktop/todo_list_Jan_2\\n"))
    assert going.is_legal and not going.is_done
    ended = client.step(FINISHED)
    assert (ended.obs_messages, ended.is_done, ended.format_reward) == (None, True, 0.0)
    assert client.evaluate() == 1.0
    assert client.errors == []


def test_an_episode_that_does_nothing_scores_zero(server: ServerProcess) -> None:
    client = TrainerClient(server.url)
    client.reset(task_config(RENAME))
    client.step(WAIT)
    client.step(FINISHED)
    assert client.evaluate() == 0.0
    assert client.errors == []


@pytest.mark.parametrize("task", INFEASIBLE, ids=lambda name: name[-36:-28])
def test_an_infeasible_task_is_won_by_fail_alone(server: ServerProcess, task: str) -> None:
    client = TrainerClient(server.url)
    for prediction, score in ((FAIL, 1.0), (FINISHED, 0.0)):
        assert client.reset(task_config(task)).is_legal
        client.step(prediction)
        assert client.evaluate() == score
    assert client.errors == []


def test_what_cannot_be_parsed_is_the_agents_penalty_and_still_scored(server: ServerProcess) -> None:
    reset(server)
    reply = step(server, "Action: fly(to='the moon'")
    assert (reply["obs_messages"], reply["is_done"], reply["format_reward"]) == (None, True, -1.0)
    assert "fault" not in reply
    assert post(server, "/env/evaluate").json() == 0.0


def test_the_maximum_counts_actions_not_predictions(server: ServerProcess) -> None:
    reset(server)
    hover = "\n\n".join(["hover(start_box='(100,100)')"] * 3)
    replies = [step(server, f"Thought: move.\nAction: {hover}", params={"since": 0}) for _ in range(5)]
    assert [reply["is_done"] for reply in replies] == [False, False, False, False, True]
    assert httpx.get(server.url + "/state").json()["step"] == 15


def test_a_repeated_step_is_answered_from_record_and_not_typed_twice(server: ServerProcess) -> None:
    reset(server)
    open_terminal(server)
    first = step(server, typed("echo once >> ~/count\\n"), headers={"Idempotency-Key": "k-1"})
    again = step(server, typed("echo once >> ~/count\\n"), headers={"Idempotency-Key": "k-1"})
    numbered = step(server, typed("echo once >> ~/count\\n"), headers={"X-Osworld-Step": "2"})
    assert first == again == numbered
    other = post(server, "/env/step", {"prediction": WAIT}, headers={"Idempotency-Key": "k-1"})
    assert (other.status_code, other.json()["fault"]["reason"]) == (422, "bad_request")
    assert guest_execute(server.pid, "cat ~/count") == "once\n"


def refused_as_busy(server: ServerProcess) -> bool:
    """Try a rival step that could not follow anyway, and say whether it was refused for being a rival."""
    reply = post(server, "/env/step", {"prediction": FINISHED}, headers={"X-Osworld-Step": "9"})
    return reply.status_code == 409 and reply.json()["fault"]["reason"] == "busy"


def test_a_rival_call_is_refused_and_evaluate_waits_instead(server: ServerProcess) -> None:
    reset(server)
    slow = typed("x" * 30)
    with ThreadPoolExecutor() as pool:
        stepping = pool.submit(step, server, slow, headers={"Idempotency-Key": "slow"})
        busy = wait_until(lambda: refused_as_busy(server), 30, "a 409 while the step runs")
        assert busy
        rival_reset = post(server, "/env/reset", {"task_config": task_config(RENAME)})
        twin = pool.submit(step, server, slow, headers={"Idempotency-Key": "slow"})
        score = pool.submit(post, server, "/env/evaluate")
        assert (rival_reset.status_code, rival_reset.json()["fault"]["kind"]) == (409, "client")
        assert stepping.result() == twin.result()
        assert score.result().json() == 0.0


def test_evaluate_is_computed_once_and_joined(server: ServerProcess) -> None:
    reset(server)
    step(server, FINISHED)
    barrier = threading.Barrier(3)

    def evaluate() -> Any:
        barrier.wait()
        return post(server, "/env/evaluate").json()

    with ThreadPoolExecutor() as pool:
        scores = [future.result() for future in [pool.submit(evaluate) for _ in range(3)]]
    assert scores == [0.0, 0.0, 0.0]
    assert post(server, "/env/evaluate").json() == 0.0
    metrics = httpx.get(server.url + "/metrics").text
    assert metrics.count("osworld_evaluate_seconds_count") == 1
    assert server.log.count("Evaluation completed") == server.log.count("evaluate ended: result=ok")


def test_a_step_after_the_end_is_no_penalty_for_v1_and_an_error_for_v2(server: ServerProcess) -> None:
    reset(server)
    step(server, FINISHED)
    v1 = post(server, "/env/step", {"prediction": WAIT})
    assert v1.status_code == 200
    assert {key: v1.json()[key] for key in ("obs_messages", "is_done", "format_reward")} == {
        "obs_messages": None,
        "is_done": True,
        "format_reward": 0.0,
    }
    assert v1.headers["X-Osworld-Fault"] == "client/episode_over"
    v2 = post(server, "/env/step", {"prediction": WAIT}, headers={"X-Osworld-Client": "v2"})
    assert (v2.status_code, v2.json()["fault"]["reason"]) == (409, "episode_over")


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"config": []}, "instruction"),
        ({"instruction": "x", "evaluator": {"func": "no_such_metric"}}, "func"),
        ({"instruction": "x", "evaluator": {"func": "exact_match", "result": {"type": "no_such_getter"}}}, "result"),
        ({"instruction": "x", "config": [{"type": "no_such_step"}], "evaluator": {"func": "infeasible"}}, "config"),
    ],
)
def test_a_bad_task_is_a_client_fault_that_names_the_field(
    server: ServerProcess, config: dict[str, Any], field: str
) -> None:
    reset(server)
    reply = post(server, "/env/reset", {"task_config": config})
    assert (reply.status_code, reply.json()["fault"]["reason"]) == (422, "bad_task"), reply.text
    assert field in reply.json()["fault"]["message"]
    assert not step(server, WAIT)["is_done"], "the episode of before goes on"


def test_strange_predictions_are_taken(server: ServerProcess) -> None:
    for text in ("", "\x00\x01\x1b[31m", "Action: " + "click(" * 20_000, "Thought: \ud800", "x" * 100_000):
        reset(server)
        body = json.dumps({"prediction": text}).encode()
        reply = httpx.post(server.url + "/env/step", content=body, headers=JSON, timeout=60)
        assert reply.status_code == 200, repr(text[:50])
        assert reply.json()["is_done"]
        assert "fault" not in reply.json()


def test_an_older_epoch_is_turned_away(own_server: ServerProcess) -> None:
    assert post(own_server, "/env/history_messages", headers={"X-Osworld-Epoch": "5"}).status_code == 200
    late = post(own_server, "/env/evaluate", headers={"X-Osworld-Epoch": "4"})
    assert (late.status_code, late.json()["fault"]["reason"]) == (421, "stale_epoch")


def test_before_a_reset_there_is_nothing_to_step_or_score(own_server: ServerProcess) -> None:
    assert post(own_server, "/env/history_messages").json() == {"history_messages": []}
    evaluated = post(own_server, "/env/evaluate")
    assert (evaluated.status_code, evaluated.json()["fault"]["reason"]) == (503, "no_episode")
    stepped = step(own_server, WAIT)
    assert (stepped["obs_messages"], stepped["is_done"], stepped["format_reward"]) == (None, True, 0.0)
    assert "Evaluation skipped" in own_server.log


def test_a_drained_env_takes_no_new_episode(own_server: ServerProcess) -> None:
    reset(own_server)
    busy = post(own_server, "/drain")
    assert (busy.status_code, busy.json()["fault"]["reason"]) == (409, "busy")
    step(own_server, FINISHED)
    post(own_server, "/env/evaluate")
    assert post(own_server, "/drain").json()["is_draining"]
    refused = post(own_server, "/env/reset", {"task_config": task_config(RENAME)})
    assert (refused.status_code, refused.json()["fault"]["reason"]) == (503, "env_draining")
    assert httpx.get(own_server.url + "/readyz").status_code == 503


def test_health_and_log_have_what_todays_operators_look_for(server: ServerProcess) -> None:
    reset(server)
    step(server, WAIT)
    step(server, FINISHED)
    post(server, "/env/evaluate")
    health = httpx.get(server.url + "/health").json()
    assert (health["status"], health["provider"], health["env_status"]) == ("ok", "xvfb", "initialized")
    assert health["observation_type"] == "screenshot"
    assert health["kvm_available"] is (health["kvm_device"] == "/dev/kvm")
    for line in (
        "Startup: PROVIDER=xvfb",
        "KVM detected" if health["kvm_available"] else "KVM not found",
        "Reset OK: VM screenshot obtained (",
        "Instruction: I have a directory named",
        "step_parse: ok actions=[WAIT] format_reward=0.00 pred_preview='Thought: look. Action: wait()'",
        "POST /env/evaluate received (instruction='I have a directory",
        "Evaluation completed: score=0.0, instruction=I have a directory",
    ):
        assert line in server.log, line


def test_screen_shows_the_desktop(server: ServerProcess) -> None:
    reply = httpx.get(server.url + "/screen")
    assert reply.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(reply.content)).size == (1920, 1080)
