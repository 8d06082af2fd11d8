"""Env servers and pools with the docker provider: a real engine, a small image that speaks the guest wire."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from osworld_env.ports import free_port
from providers.conftest import BOOT_S, ENDED_S, GuestDisk
from providers.engine import IMAGE, Engine
from server_process import ServerProcess, clean_environment
from task_parts import EVALUATOR, execute, shell_result
from up_process import TOKEN, Up
from waiting import wait_until

pytestmark = pytest.mark.usefixtures("own_place")


def server(folder: Path, engine: Engine, **variables: str) -> ServerProcess:
    port = free_port()
    own = {
        "PROVIDER": "docker", "OSWORLD_DOCKER_IMAGE": IMAGE, "OSWORLD_PORT": str(port), "DOCKER_HOST": engine.host,
        "OSWORLD_STEP_PAUSE_S": "0.1", "OSWORLD_QEMU_ACCELERATOR": "tcg",
    }  # fmt: skip
    return ServerProcess("osworld_envpod", folder, clean_environment(**own | variables), port)


TASK = {
    "instruction": "Say yes.",
    "config": [execute("mkdir -p /tmp/desk && echo set up > /tmp/desk/state")],
    "evaluator": EVALUATOR
    | {
        "result": shell_result("cat /tmp/desk/state; wc -l < /tmp/calls.jsonl"),
        "expected": {"type": "rule", "rules": {"expected": "set up\n1\n"}},
    },
}


def post(running: ServerProcess, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(running.url + path, json=body, timeout=200)


def test_two_episodes_are_played_and_scored_on_the_users_own_disk(
    docker_engine: Engine, disk: GuestDisk, tmp_path: Path
) -> None:
    with server(tmp_path, docker_engine) as running:
        running.wait_ready()
        health = httpx.get(f"{running.url}/health").json()
        assert (health["provider"], health["accelerator"], health["kvm_available"]) == ("docker", "tcg", False)
        for click_first in (True, False):
            reply = post(running, "/env/reset", {"task_config": TASK})
            assert reply.status_code == 200, reply.text[:500]
            assert reply.json()["obs_messages"][2]["content"][0]["b64"]
            (container,) = docker_engine.containers("paused")
            if click_first:
                step = post(running, "/env/step", {"prediction": "Thought: x.\nAction: click(start_box='(9,9)')"})
                assert step.json()["obs_messages"], step.text[:500]
                assert docker_engine.status(container) == "paused"
            score = post(running, "/env/evaluate", {})
            assert (score.status_code, score.json()) == (200, 1.0 if click_first else 0.0)
        assert f"the disk is {disk.path}, which was there" in running.log
    assert docker_engine.containers() == []


def test_an_env_server_that_is_killed_leaves_no_container(
    docker_engine: Engine, disk: GuestDisk, tmp_path: Path
) -> None:
    with server(tmp_path, docker_engine) as running:
        running.wait_ready()
        wait_until(lambda: len(docker_engine.containers()) == 2, BOOT_S, "two containers")
        psutil.Process(running.pid).kill()
        wait_until(lambda: docker_engine.containers() == [], ENDED_S, "no containers")


def test_a_boot_whose_caller_hung_up_is_for_the_next_one(
    docker_engine: Engine, disk: GuestDisk, tmp_path: Path
) -> None:
    with server(tmp_path, docker_engine, OSWORLD_SPARE_DESKTOPS="0") as running:
        running.wait_ready()
        assert post(running, "/env/reset", {"task_config": TASK}).status_code == 200
        disk.say(hold=True)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{running.url}/env/reset", json={"task_config": TASK}, timeout=2)
        (booting,) = wait_until(lambda: _running(docker_engine), ENDED_S, "the booting container alone")
        with ThreadPoolExecutor() as threads:
            reply = threads.submit(post, running, "/env/reset", {"task_config": TASK})
            disk.say()
            assert reply.result().status_code == 200, reply.result().text[:500]
        assert docker_engine.containers() == [booting]
        assert "the desktop is left for the next" in running.log


def _running(docker_engine: Engine) -> list[str]:
    """Return the name of the one container there is, nothing while the one before is still there."""
    names = docker_engine.containers()
    return names if len(names) == 1 and docker_engine.containers("running") == names else []


def test_a_local_pool_plays_on_two_machines(docker_engine: Engine, disk: GuestDisk, tmp_path: Path) -> None:
    variables = {
        "OSWORLD_DOCKER_IMAGE": IMAGE, "OSWORLD_QEMU_ACCELERATOR": "tcg", "DOCKER_HOST": docker_engine.host
    }  # fmt: skip
    with Up(tmp_path, envs=2, provider="docker", variables=variables) as pool:
        assert len(docker_engine.containers()) == 2
        for idx in (0, 1):
            url, token = f"{pool.url}/envs/{idx}/env", {"Authorization": f"Bearer {TOKEN}"}
            for path, body in (("reset", {"task_config": TASK}), ("evaluate", {})):
                reply = httpx.post(f"{url}/{path}", json=body, headers=token, timeout=200)
                assert reply.status_code == 200, reply.text[:500]
    assert docker_engine.containers() == []


def test_a_reset_that_comes_while_the_first_machine_boots_says_so(
    docker_engine: Engine, disk: GuestDisk, tmp_path: Path
) -> None:
    disk.say(hold=True)
    with server(tmp_path, docker_engine, OSWORLD_RESET_TIMEOUT_S="2") as running:
        running.wait_ready("/livez")
        reply = post(running, "/env/reset", {"task_config": TASK})
        assert reply.status_code == 503
        assert "still starting" in reply.json()["fault"]["message"]
        disk.say()
        running.wait_ready()


def test_a_missing_engine_ends_the_start_with_one_sentence(
    docker_engine: Engine, disk: GuestDisk, tmp_path: Path
) -> None:
    # PROVIDER is not set, as with many of today's users.
    with server(tmp_path, docker_engine, PROVIDER="", DOCKER_HOST="unix:///nowhere/docker.sock") as running:
        wait_until(lambda: not psutil.pid_exists(running.pid) or _has_ended(running), BOOT_S, "its end")
        assert running.stop() == 1
        assert "no Docker engine answers" in running.log.splitlines()[-1]


def _has_ended(running: ServerProcess) -> bool:
    return psutil.Process(running.pid).status() == psutil.STATUS_ZOMBIE
