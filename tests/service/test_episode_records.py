"""The record of an episode, from a real env server to the command line that shows it and plays it again."""

import fcntl
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from desktop_probe import desktop_processes
from osworld_contract.record import RECORD_FILE, TASK_FILE
from osworld_contract.replay import JOURNAL_PATH, REPLAY_PATH, EpisodeJournal, Sight
from osworld_envpod.recorder import BEGINNING_S, prune
from server_process import ServerProcess, clean_environment, env_server, post
from service.test_env_server_callers import SLOW_STEP, hang_up_during, reset
from tasks_of import INFEASIBLE, RENAME, task_config
from trainer_client import TrainerClient
from waiting import wait_until

FINISHED = "Thought: done.\nAction: finished(content='done')"
FAIL = "Thought: it cannot be done.\nAction: call_user()"
WAIT = "Thought: look.\nAction: wait()"
WRITTEN_DEADLINE_S = 30.0
NOW = 2_000_000_000.0


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of records of the module's env server."""
    return tmp_path_factory.mktemp("records") / "episodes"


@pytest.fixture(scope="module")
def recording_server(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    with env_server(folder, OSWORLD_EPISODE_RECORDS_DIR=str(records)) as process:
        yield process.wait_ready()


def play(server: ServerProcess, task: str, *predictions: str) -> float:
    client = TrainerClient(server.url)
    assert client.reset(task_config(task)).is_legal
    for prediction in predictions:
        client.step(prediction)
    score = client.evaluate()
    assert client.errors == []
    return score


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RECORD_FILE).read_text().splitlines()]


def latest(records: Path, calls: int) -> Path:
    """Return the folder of the latest episode, once all its calls are in it."""

    def written() -> Path | None:
        folders = sorted(records.iterdir(), key=lambda folder: folder.stat().st_mtime)
        return folders[-1] if folders and len(lines_of(folders[-1])) == 1 + calls else None

    found = wait_until(written, WRITTEN_DEADLINE_S, f"a record of {calls} calls")
    assert found is not None
    return found


def osworld_env(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "osworld_env", "episodes", *arguments],
        capture_output=True, text=True, timeout=300, check=False, cwd=cwd, env=clean_environment(COLUMNS="200"),
    )  # fmt: skip


def test_an_episode_is_recorded_with_screens_actions_and_score(
    recording_server: ServerProcess, records: Path, tmp_path: Path
) -> None:
    assert play(recording_server, RENAME, WAIT, FINISHED) == 0.0
    folder = latest(records, 4)
    head, reset, look, done, evaluated = lines_of(folder)
    assert (head["task_id"], head["provider"]) == (task_config(RENAME)["id"], "xvfb")
    assert [line["operation"] for line in (reset, look, done, evaluated)] == ["reset", "step", "step", "evaluate"]
    assert (look["prediction"], look["actions"], done["actions"]) == (WAIT, ["WAIT"], ["DONE"])
    assert [line["screenshot"] for line in (reset, look, done)] == ["000.png", "001.png", None]
    assert (folder / "001.png").read_bytes().startswith(b"\x89PNG")
    assert (evaluated["score"], evaluated["fault"]) == (0.0, None)
    assert json.loads((folder / TASK_FILE).read_text())["evaluator"] == task_config(RENAME)["evaluator"]
    assert stat.S_IMODE(records.stat().st_mode) == stat.S_IMODE(folder.stat().st_mode) == 0o700

    listed = osworld_env("list", "--dir", str(records), cwd=tmp_path)
    assert listed.returncode == 0
    assert folder.name[:12] in listed.stdout and "score 0" in listed.stdout
    shown = osworld_env("show", folder.name[:12], "--dir", str(records), "--page", "page.html", cwd=tmp_path)
    assert shown.returncode == 0, shown
    assert f"{folder.name}/001.png" in (tmp_path / "page.html").read_text()


def test_an_episode_is_played_again_to_the_same_score(
    recording_server: ServerProcess, records: Path, tmp_path: Path
) -> None:
    assert play(recording_server, INFEASIBLE[0], FAIL) == 1.0
    name = latest(records, 3).name
    again = osworld_env("replay", name, "--dir", str(records), "--url", recording_server.url, cwd=tmp_path)
    assert again.returncode == 0, again
    assert "score: 1" in again.stdout
    assert latest(records, 3).name != name


def play_again(server: ServerProcess, **changes: Any) -> tuple[str, httpx.Response]:
    """Have an episode of two steps played again as a router does that has lost it; return its id and the answer."""
    client = TrainerClient(server.url)
    assert client.reset(task_config(RENAME)).is_legal
    assert client.step(WAIT).is_legal
    assert client.step(WAIT).is_legal
    said = EpisodeJournal.model_validate_json(httpx.get(f"{server.url}{JOURNAL_PATH}").content)
    request = said.episode.model_copy(update={"replay_of": said.episode_id, **changes})
    return said.episode_id, post(server, REPLAY_PATH, request.model_dump())


def test_a_recovered_episode_says_from_where_and_what_was_played_again(
    recording_server: ServerProcess, records: Path, tmp_path: Path
) -> None:
    lost, answer = play_again(recording_server)
    assert answer.status_code == 200, answer.text
    client = TrainerClient(recording_server.url)
    assert client.step(FINISHED).is_done
    assert client.evaluate() == 0.0
    folder = latest(records, 6)
    head, *lines = lines_of(folder)
    assert (head["replay_of"], answer.json()["episode_id"]) == (lost, folder.name)
    assert [(line["operation"], line["replayed"]) for line in lines] == [
        ("reset", True), ("step", True), ("step", True), ("replay", False), ("step", False), ("evaluate", False)
    ]  # fmt: skip
    listed = osworld_env("list", "--dir", str(records), cwd=tmp_path).stdout
    assert f"goes on from {lost[:12]}, score 0" in listed
    assert f"no score, went on as {folder.name[:12]}" in listed
    shown = osworld_env("show", folder.name, "--dir", str(records), cwd=tmp_path).stdout
    assert shown.count("played again") == 3 and f"goes on from {lost[:12]}" in shown
    assert f"went on as {folder.name[:12]}" in osworld_env("show", lost, "--dir", str(records), cwd=tmp_path).stdout


def test_what_a_replay_failed_of_is_in_the_record(recording_server: ServerProcess, records: Path) -> None:
    lost, answer = play_again(recording_server, seen=Sight(windows="0" * 32, screen_b64=None))
    assert answer.json()["fault"]["reason"] == "replay_diverged"
    head, reset, replay = lines_of(latest(records, 2))
    assert head["replay_of"] == lost
    assert (reset["replayed"], reset["fault"]) == (True, None)
    assert (replay["operation"], replay["fault"]["reason"]) == ("replay", "replay_diverged")


def test_a_record_of_before_there_were_recoveries_is_read(tmp_path: Path) -> None:
    head = {"version": 1, "episode_id": "e" * 32, "task_id": "t", "instruction": "do", "provider": "xvfb", "pool": "p"}
    reset = {"operation": "reset", "at": 1.0, "duration_s": 1.5}
    folder = tmp_path / head["episode_id"]  # type: ignore[operator]
    folder.mkdir()
    (folder / RECORD_FILE).write_text("\n".join(json.dumps(line) for line in (head | {"began": 1.0}, reset)) + "\n")
    assert "no score" in osworld_env("show", "e", "--dir", str(tmp_path), cwd=tmp_path).stdout


def test_a_fault_is_in_the_record(recording_server: ServerProcess, records: Path) -> None:
    client = TrainerClient(recording_server.url)
    assert client.reset(task_config(RENAME)).is_legal
    ended = client.step("Thought: there is no such thing.\nAction: fly(")
    assert ended.is_done
    folder = latest(records, 2)
    assert lines_of(folder)[-1]["format_reward"] == -1.0
    client.reset(task_config(RENAME) | {"config": [{"type": "execute", "parameters": {"command": ["false-program"]}}]})
    assert lines_of(latest(records, 1))[-1]["fault"]["kind"] == "task"


def shown(records: Path, folder: Path, cwd: Path) -> tuple[str, str]:
    """Return what the command line prints of an episode, and its page."""
    done = osworld_env("show", folder.name, "--dir", str(records), "--page", "page.html", cwd=cwd)
    assert done.returncode == 0, done
    return done.stdout, (cwd / "page.html").read_text()


def test_a_desktop_that_dies_between_two_calls_is_in_the_record(
    recording_server: ServerProcess, records: Path, tmp_path: Path
) -> None:
    client = TrainerClient(recording_server.url)
    assert client.reset(task_config(RENAME)).is_legal
    for target in desktop_processes(recording_server.pid, "Xvfb"):
        target.kill()
    folder = latest(records, 2)
    between = lines_of(folder)[-1]
    assert (between["operation"], between["fault"]["reason"]) == ("between", "desktop_lost")
    ended = post(recording_server, "/env/step", {"prediction": WAIT})
    assert ended.headers["X-Osworld-Fault"] == "infra/desktop_lost"
    assert post(recording_server, "/env/evaluate").json()["fault"]["reason"] == "desktop_lost"
    printed, page = shown(records, folder, tmp_path)
    assert re.search(r"^between .* infra/desktop_lost$", printed, re.MULTILINE)
    assert printed.rstrip().endswith("fault infra/desktop_lost")
    assert "<b>between</b>" in page and "no call was under way" in page
    assert client.reset(task_config(RENAME)).is_legal
    latest(records, 1)
    assert lines_of(folder)[2:] == [between], "one fault, however often it was answered"


def test_a_reply_that_nobody_waited_for_is_in_the_record(
    recording_server: ServerProcess, records: Path, tmp_path: Path
) -> None:
    reset(recording_server)
    key = {"Idempotency-Key": "slow"}
    hang_up_during(recording_server, "/env/step", {"prediction": SLOW_STEP}, "step_parse", **key)
    for _ in range(2):
        assert post(recording_server, "/env/evaluate").json()["fault"]["reason"] == "reply_lost"
    folder = latest(records, 3)
    lost = lines_of(folder)[-1]
    assert (lost["operation"], lost["score"], lost["fault"]["reason"]) == ("evaluate", None, "reply_lost")
    metrics = httpx.get(f"{recording_server.url}/metrics").text
    assert 'osworld_faults_total{kind="infra",operation="evaluate",reason="reply_lost"} 1.0' in metrics
    printed, page = shown(records, folder, tmp_path)
    assert re.search(r"^evaluate .* infra/reply_lost$", printed, re.MULTILINE)
    assert printed.rstrip().endswith("fault infra/reply_lost")
    assert "infra/reply_lost during evaluate" in page and "<b>evaluate</b>" in page

    assert post(recording_server, "/env/step", {"prediction": SLOW_STEP}, **key).status_code == 200
    assert post(recording_server, "/env/evaluate").json() == 0.0
    assert latest(records, 4) == folder
    assert "score 0" in shown(records, folder, tmp_path)[0], "who asked for the reply again has a score after all"


def test_a_folder_that_cannot_be_written_costs_the_record_alone(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    with env_server(tmp_path, OSWORLD_EPISODE_RECORDS_DIR=str(taken)) as server:
        server.wait_ready()
        assert play(server, INFEASIBLE[0], FAIL) == 1.0
        wait_until(lambda: "ends here" in server.log, WRITTEN_DEADLINE_S, "a line in the log")
        assert server.log.count("ends here") == 1


@pytest.mark.parametrize("episode", ["", "no-such"])
def test_an_episode_that_is_not_there_is_one_sentence(tmp_path: Path, episode: str) -> None:
    done = osworld_env("show", episode, "--dir", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2
    assert "no episode" in done.stderr and "Traceback" not in done.stderr


def record(root: Path, name: str, size: int, age_s: float, file: str = RECORD_FILE) -> Path:
    folder = root / name
    folder.mkdir()
    path = folder / file
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - age_s, NOW - age_s))
    return folder


def test_the_oldest_records_go_first_and_those_of_episodes_under_way_stay(tmp_path: Path) -> None:
    older, old, new = (record(tmp_path, name, 600, age_s) for name, age_s in (("a", 30.0), ("b", 20.0), ("c", 10.0)))
    with (older / RECORD_FILE).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert prune(tmp_path, 1200, NOW) == [old]
        assert prune(tmp_path, 10, NOW) == [new]
    assert prune(tmp_path, 10, NOW) == [older]


def test_a_record_that_is_about_to_begin_stays(tmp_path: Path) -> None:
    begun, left = (record(tmp_path, str(age_s), 600, age_s, TASK_FILE) for age_s in (BEGINNING_S / 2, BEGINNING_S * 2))
    assert prune(tmp_path, 10, NOW) == [left]
    assert begun.is_dir()


def test_a_record_is_in_use_until_the_next_episode(tmp_path: Path) -> None:
    root = tmp_path / "records"
    with env_server(tmp_path, OSWORLD_EPISODE_RECORDS_DIR=str(root)) as server:
        server.wait_ready()
        assert play(server, INFEASIBLE[0], FAIL) == 1.0
        first = latest(root, 3)
        assert prune(root, 0) == []
        assert play(server, INFEASIBLE[0], FAIL) == 1.0
        assert latest(root, 3) != first
        assert prune(root, 0) == [first]
