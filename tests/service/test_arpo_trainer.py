"""The launcher for the ARPO trainer, over a stand-in with its names and call order: real Ray, router and desktops."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from osworld_contract.registry import Registry, RegistryEntry, write_registry
from osworld_env.ports import free_port
from server_process import ServerProcess, clean_environment, env_server
from tasks_of import INFEASIBLE, task_config
from waiting import wait_until

CHECKOUT = Path(__file__).parents[1] / "arpo"
TOKEN = "job-token"
UPSTREAM = "upstream-token"
WAIT = "Thought: wait.\nAction: wait()"
FINISHED = "Thought: done.\nAction: finished(content='done')"
FAIL = "Thought: it cannot be done.\nAction: call_user()"
NONSENSE = "I would rather not."
RUN_S = 200


@dataclass
class Pool:
    router: ServerProcess
    servers: list[ServerProcess]

    @property
    def url(self) -> str:
        return f"http://job:{TOKEN}@127.0.0.1:{self.router.port}"

    def predictions(self, idx: int) -> int:
        return int(
            httpx.get(f"{self.servers[idx].url}/state", headers={"Authorization": f"Bearer {UPSTREAM}"}).json()[
                "predictions"
            ]
        )


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    registry = tmp_path / "registry.json"
    with ExitStack() as stack:
        started = [stack.enter_context(env_server(tmp_path, OSWORLD_TOKEN=UPSTREAM)) for _ in range(2)]
        servers = [server.wait_ready() for server in started]
        entries = [RegistryEntry(env_idx=i, uid=f"u{i}", epoch=1, url=s.url) for i, s in enumerate(servers)]
        write_registry(registry, Registry(envs=tuple(entries)))
        yield Pool(stack.enter_context(router_over(registry)).wait_ready(), servers)


def router_over(registry: Path) -> ServerProcess:
    port = free_port()
    variables = clean_environment(
        OSWORLD_ROUTER_PORT=str(port),
        OSWORLD_REGISTRY_FILE=str(registry),
        OSWORLD_TOKEN=TOKEN,
        OSWORLD_UPSTREAM_TOKEN=UPSTREAM,
        OSWORLD_ROUTER_RETRY_S="1",
        OSWORLD_ROUTER_STEP_TIMEOUT_S="30",
        OSWORLD_ROUTER_RESET_TIMEOUT_S="30",
    )
    return ServerProcess("osworld_router", registry.parent, variables, port)


def config_of(
    folder: Path, url: str | None, batches: list[Any], validation: list[list[str]], envs: int = 2
) -> dict[str, Any]:
    return {
        "env": {"num_envs": 2, "max_steps": 15, "remote_server_url": url},
        "data": {
            "rollout_batch_size": 1,
            "tasks": [task_config(INFEASIBLE[0])],
            "val_tasks": [task_config(INFEASIBLE[0]), task_config(INFEASIBLE[1])],
        },
        "worker": {"rollout": {"n": 2}},
        "algorithm": {"adv_estimator": "grpo"},
        "script": {"batches": batches, "validation": validation},
        "report": {"path": str(folder / "report.json")},
    }


class Launched:
    """The launcher as a process."""

    def __init__(self, folder: Path, config: dict[str, Any] | None = None, checkout: Path = CHECKOUT) -> None:
        self.folder = folder
        self.log_path = folder / "trainer.log"
        (folder / "config.json").write_text(json.dumps(config))
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "osworld_env.arpo", "verl.trainer.main", f"config={folder / 'config.json'}"],
                cwd=checkout,
                env=clean_environment(PYTHONDONTWRITEBYTECODE="1"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> "Launched":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def ended(self) -> int:
        return self.process.wait(RUN_S)

    def report(self) -> dict[str, Any]:
        assert self.ended() == 0, self.log
        report: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return report


@pytest.mark.timeout(300)
def test_two_envs_train_in_lock_step_through_the_router(pool: Pool, tmp_path: Path) -> None:
    batches = [[[WAIT, FAIL], [WAIT, FINISHED]], [[NONSENSE], [FAIL]]]
    with Launched(tmp_path, config_of(tmp_path, pool.url, batches, [[FAIL], [FINISHED]])) as run:
        report = run.report()
    first, second = report["batches"]
    assert first["scores"] == [1.0, 0.0], "worker i is env i"
    assert [tokens[0] for tokens in first["advantages"]] == [0.0] * 2, "a system message is not trained on"
    turns = [[token for token in row if token != -100] for row in first["labels"]]
    assert turns == [[len(WAIT), len(FAIL)], [len(WAIT), len(FINISHED)]], "the final turn is in the sample"
    assert (first["advantages"][0][-1] > 0) and (first["advantages"][1][-1] < 0)
    assert (second["scores"], second["formats"]) == ([0.0, 1.0], [-1.0, 0.0])
    assert second["labels"][0][-1] == len(NONSENSE), "a format error is the agent's, and is trained on"
    assert (report["val_batch"], report["val_scores"]) == (2, [1.0, 0.0])
    assert (report["val/reward_score"], report["val/masked"]) == (0.5, 0)


@pytest.mark.timeout(300)
def test_an_env_that_dies_leaves_a_masked_sample_and_no_zero(pool: Pool, tmp_path: Path) -> None:
    batches = [[[FAIL], [WAIT, WAIT, WAIT, WAIT, FAIL]]]
    with Launched(tmp_path, config_of(tmp_path, pool.url, batches, [[FAIL], [FAIL]])) as run:
        wait_until(
            lambda: pool.predictions(1) == 1,
            RUN_S,
            "the second env's first step",
        )
        pool.servers[1].stop(signal.SIGKILL)
        report = run.report()
    [batch] = report["batches"]
    assert batch["scores"] == [1.0, 0.0]
    assert batch["formats"] == [0.0, 0.0], "no format penalty for a fault"
    assert set(batch["labels"][1]) == {-100}, "nothing of the faulted episode is trained on"
    assert all(advantage == 0.0 for row in batch["advantages"] for advantage in row), "none to compare the other with"
    assert (report["val_scores"], report["val/reward_score"], report["val/masked"]) == ([1.0, 0.0], 1.0, 1)
    assert "env 1: infra/" in run.log


def test_a_wrong_token_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    registry = tmp_path / "registry.json"
    write_registry(registry, Registry(envs=()))
    with router_over(registry) as router:
        router.wait_ready("/livez")
        url = f"http://job:other@127.0.0.1:{router.port}"
        with Launched(tmp_path, config_of(tmp_path, url, [], [])) as run:
            assert run.ended() != 0
    assert "env 0 of 2 (env.num_envs): the token is missing or wrong" in run.log


def test_a_trainer_with_other_names_is_refused_before_it_starts(tmp_path: Path) -> None:
    package = tmp_path / "verl" / "trainer"
    package.mkdir(parents=True)
    (package / "gui_agent.py").write_text("class EnvWorker:\n    pass\n")
    (package / "ray_trainer.py").write_text("from .gui_agent import EnvWorker\n")
    (package / "main.py").write_text("import ray\nfrom .ray_trainer import EnvWorker\n")
    with Launched(tmp_path, checkout=tmp_path) as run:
        assert run.ended() == 2
    assert "found no RemoteEnvWorker.step, accepted is RemoteEnvWorker.step(self, prediction)" in run.log
    assert "Traceback" not in run.log


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with Launched(tmp_path, checkout=tmp_path) as run:
        assert run.ended() == 2
    assert "found no module verl.trainer.gui_agent; accepted: the ARPO trainer's checkout" in run.log
