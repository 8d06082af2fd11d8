"""The record of an episode, from a real env server to the command line that shows it and plays it again."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from osworld_contract.record import RECORD_FILE, TASK_FILE
from osworld_envpod.recorder import IN_USE_S, prune
from server_process import ServerProcess, clean_environment, env_server
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


def test_a_fault_is_in_the_record(recording_server: ServerProcess, records: Path) -> None:
    client = TrainerClient(recording_server.url)
    assert client.reset(task_config(RENAME)).is_legal
    ended = client.step("Thought: there is no such thing.\nAction: fly(")
    assert ended.is_done
    folder = latest(records, 2)
    assert lines_of(folder)[-1]["format_reward"] == -1.0
    client.reset(task_config(RENAME) | {"config": [{"type": "execute", "parameters": {"command": ["false-program"]}}]})
    assert lines_of(latest(records, 1))[-1]["fault"]["kind"] == "task"


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


def record(root: Path, name: str, size: int, age_s: float) -> Path:
    folder = root / name
    folder.mkdir()
    file = folder / RECORD_FILE
    file.write_bytes(b"x" * size)
    os.utime(file, (NOW - age_s, NOW - age_s))
    return folder


def test_the_oldest_records_go_first_and_those_in_use_stay(tmp_path: Path) -> None:
    older = record(tmp_path, "older", 600, IN_USE_S * 3)
    old = record(tmp_path, "old", 600, IN_USE_S * 2)
    used = record(tmp_path, "used", 5000, IN_USE_S / 2)
    assert prune(tmp_path, 5700, NOW) == [older]
    assert prune(tmp_path, 10, NOW) == [old]
    assert used.is_dir()
