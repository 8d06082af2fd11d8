"""`osworld-env up` with real desktops: episodes through the router, restarts, and an end that leaves nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from osworld_contract.faults import FaultError, FaultReason
from osworld_env import EnvClient
from server_process import clean_environment
from up_process import READY_DEADLINE_S, STOP_DEADLINE_S, TOKEN, Up, alive
from waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples" / "demo"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("up"), envs=2) as running:
        yield running


@pytest.mark.timeout(300)
def test_an_evaluate_before_a_reset_is_fine(up: Up) -> None:
    done = up.command("evaluate-check", up.token_url, "--env-idx", "1")
    assert done.returncode == 0, done
    assert "CHECK OK" in done.stdout


def test_a_script_is_played_to_its_score(up: Up) -> None:
    task, script = str(EXAMPLES / "task.json"), str(EXAMPLES / "rename.txt")
    done = up.command("run", task, "--script", script, "--url", up.token_url, "--out", "run")
    assert done.returncode == 0, done
    assert "score: 1" in done.stdout
    assert TOKEN not in done.stdout + done.stderr
    page = (up.folder / "run" / "index.html").read_text()
    assert "00.png" in page
    assert (up.folder / "run" / "00.png").read_bytes().startswith(b"\x89PNG")


def test_a_check_plays_a_short_episode(up: Up) -> None:
    done = up.command("check", up.token_url, "--env-idx", "1", "--screenshot", "check.png")
    assert done.returncode == 0, done
    assert "CHECK OK" in done.stdout
    assert (up.folder / "check.png").read_bytes().startswith(b"\x89PNG")


def test_a_check_leaves_a_running_episode_alone(up: Up) -> None:
    with EnvClient(up.token_url, env_idx=0) as client:
        client.reset(json.loads((EXAMPLES / "task.json").read_text()))
        for which in (["--env-idx", "0"], []):
            done = up.command("check", up.token_url, *which)
            assert done.returncode == 1
            assert "--force" in done.stdout
        assert client.state().phase == "running"


def test_a_call_waits_for_a_router_that_is_started_again(up: Up) -> None:
    victim = up.router_pid
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not alive([victim]), 30, "the router's end")
    assert httpx.get(f"{up.url}/readyz", timeout=60).status_code == 200
    assert up.router_pid != victim


def test_a_missing_token_has_a_hint(up: Up) -> None:
    done = up.command("evaluate-check", up.url)
    assert done.returncode == 1
    assert "http://job:TOKEN@host:15001" in done.stdout


def test_an_unknown_env_is_a_fault(up: Up) -> None:
    with EnvClient(up.token_url, env_idx=7) as client, pytest.raises(FaultError) as caught:
        client.evaluate()
    assert caught.value.fault.reason is FaultReason.UNKNOWN_ENV


@pytest.mark.timeout(300)
def test_an_env_server_that_is_killed_comes_back_with_the_next_epoch(up: Up) -> None:
    before = {entry.env_idx: entry for entry in up.registry.envs}
    os.kill(up.env_pids[0], signal.SIGKILL)
    wait_until(lambda: up.registry.envs[0].epoch == 2, READY_DEADLINE_S, "the registry has the next epoch")
    after = {entry.env_idx: entry for entry in up.registry.envs}
    assert after[0].uid != before[0].uid
    assert after[0].url != before[0].url
    assert after[1] == before[1]
    with EnvClient(up.token_url) as client:
        wait_until(lambda: client.health().status == "ok", 30, "the router sees the new env server")
        reply = client.reset(json.loads((EXAMPLES / "task.json").read_text()))
        assert reply.obs_messages is not None


@pytest.mark.timeout(300)
def test_a_router_that_starts_while_the_highest_env_is_away_waits_for_it(tmp_path: Path) -> None:
    task = json.loads((EXAMPLES / "task.json").read_text())
    with Up(tmp_path, envs=2) as running, EnvClient(running.token_url, env_idx=1) as client:
        before, victims = running.registry.envs[1], [running.env_pids[1], running.router_pid]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not alive(victims), 30, "the end of both")
        assert [entry.env_idx for entry in running.registry.envs] == [0, 1], "who is away keeps its entry"
        assert client.reset(task).obs_messages is not None, "and is not unknown"
        assert running.registry.envs[1].epoch > before.epoch
        assert running.router_pid not in victims


@pytest.mark.timeout(300)
def test_a_spare_takes_the_place_of_an_env_server_that_is_killed(tmp_path: Path) -> None:
    task = json.loads((EXAMPLES / "task.json").read_text())
    with Up(tmp_path, envs=1, spares=1) as running, EnvClient(running.token_url) as client:
        wait_until(lambda: "spare 1 is ready" in running.log, READY_DEADLINE_S, "the spare")
        client.reset(task)
        os.kill(running.env_pids[0], signal.SIGKILL)
        wait_until(lambda: "env 0 moved to the spare" in running.log, READY_DEADLINE_S, "the move")
        assert running.registry.envs[0].epoch == 2
        assert "is ready: pid" not in running.log.split("env 0 moved to the spare")[1], "nothing had to start for it"
        assert client.evaluate() == 0.0, "the spare has had the episode played again"
        assert client.reset(task).obs_messages is not None
        wait_until(lambda: running.log.count("spare 0 is ready") == 1, READY_DEADLINE_S, "a new spare")
        assert [entry.epoch for entry in running.registry.envs] == [2]


@pytest.mark.timeout(300)
def test_a_reset_at_a_frozen_env_server_goes_on_at_a_spare(tmp_path: Path) -> None:
    task = json.loads((EXAMPLES / "task.json").read_text())
    with Up(tmp_path, envs=1, spares=1) as running, EnvClient(running.token_url) as client:
        os.kill(running.env_pids[0], signal.SIGSTOP)
        assert client.reset(task).obs_messages is not None
        assert [entry.epoch for entry in running.registry.envs] == [2]
        assert client.evaluate() == 0.0
        metrics = httpx.get(f"{running.url}/metrics").text
        assert 'osworld_router_hedges_total{result="moved"} 1.0' in metrics
        wait_until(lambda: "spare 0 is ready" in running.log, READY_DEADLINE_S, "the frozen one, begun anew")


@pytest.mark.timeout(300)
def test_a_reset_that_lags_is_begun_anew_on_a_spare_once(tmp_path: Path) -> None:
    task = json.loads((EXAMPLES / "task.json").read_text())
    task["config"].append({"type": "execute", "parameters": {"command": ["sleep", "8"]}})
    with (
        Up(tmp_path, envs=1, spares=1, variables={"OSWORLD_ROUTER_HEDGE_AFTER_S": "3"}) as running,
        EnvClient(running.token_url) as client,
    ):
        assert client.reset(task).obs_messages is not None
        assert [entry.epoch for entry in running.registry.envs] == [2], "and it had its time there"
        assert client.evaluate() == 0.0


@pytest.mark.timeout(300)
def test_who_may_ask_for_a_move(tmp_path: Path) -> None:
    with Up(tmp_path, envs=1, spares=1) as running:
        [entry] = running.registry.envs
        environment = psutil.Process(running.router_pid).environ()
        url = environment["OSWORLD_ROUTER_MOVE_URL"]
        wish = {"from_uid": entry.uid, "epoch": entry.epoch}
        assert httpx.post(f"{url}/envs/0/move", json=wish).status_code == 401
        bearer = {"Authorization": f"Bearer {environment['OSWORLD_UPSTREAM_TOKEN']}"}
        for body in (b"", b"[]", json.dumps(wish | {"epoch": 0}).encode()):
            assert httpx.post(f"{url}/envs/0/move", content=body, headers=bearer).status_code == 422
        assert httpx.post(f"{url}/envs/x/move", json=wish, headers=bearer).status_code == 404
        assert running.registry.envs == (entry,)
        assert httpx.post(f"{url}/envs/0/move", json=wish, headers=bearer).json()["epoch"] == 2
        assert running.registry.envs[0].epoch == 2


def test_the_run_folder_is_private_and_its_registry_has_no_secret(up: Up) -> None:
    assert up.run_dir.stat().st_mode & 0o777 == 0o700
    for path in up.run_dir.iterdir():
        assert TOKEN not in path.read_text(errors="replace"), path


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything(tmp_path: Path, how: signal.Signals) -> None:
    with Up(tmp_path, envs=1) as running:
        started = running.descendants()
        assert started
        running.process.send_signal(how)
        assert running.process.wait(STOP_DEADLINE_S) == 0, running.log
        wait_until(lambda: not alive(started), 30, "no process is left")
        assert not running.run_dir.exists()
        assert "Stopped." in running.log


@pytest.mark.timeout(300)
def test_nothing_outlives_a_killed_up(tmp_path: Path) -> None:
    with Up(tmp_path, envs=1) as running:
        started = running.descendants()
        running.process.kill()
        running.process.wait(STOP_DEADLINE_S)
        wait_until(lambda: not alive(started), STOP_DEADLINE_S, "no process is left")


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "osworld_env", "up", "--port", port],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env=clean_environment(),
        )
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1 is taken" in done.stderr
    assert "Traceback" not in done.stderr
