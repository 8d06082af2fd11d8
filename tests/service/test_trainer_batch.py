"""Whole batches as the trainer plays them: envs in lock step through the router, its habits, its reading of replies."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from desktop_probe import guest_execute
from osworld_contract.registry import Registry, RegistryEntry, write_registry
from osworld_env.ports import free_port
from server_process import ServerProcess, clean_environment, env_server
from tasks_of import INFEASIBLE, RENAME, task_config
from trainer_client import TrainerClient, TrainerReply
from waiting import wait_until

T = TypeVar("T")

TOKEN = "job-token"
UPSTREAM = "upstream-token"
TERMINAL = "Thought: open a terminal.\nAction: hotkey(key='ctrl alt t')"
RENAMING = "Thought: rename.\nAction: type(content='mv ~/Desktop/todo_list_Jan_1 ~/Desktop/todo_list_Jan_2\\n')"
WAIT = "Thought: wait.\nAction: wait()"
FINISHED = "Thought: done.\nAction: finished(content='done')"
FAIL = "Thought: it cannot be done.\nAction: call_user()"


class Pool:
    """Env servers behind one router."""

    def __init__(self, router: ServerProcess, servers: list[ServerProcess]) -> None:
        self.router = router
        self.servers = servers

    def client(self, idx: int, *pauses_s: float) -> TrainerClient:
        """Return the trainer's worker for env `idx`, with its habit of evaluating again."""
        return TrainerClient(f"{self.router.url}/envs/{idx}", ("job", TOKEN), pauses_s or (0.0, 0.0))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    folder = tmp_path_factory.mktemp("pool")
    registry = folder / "registry.json"
    with ExitStack() as stack:
        started = [stack.enter_context(env_server(folder, OSWORLD_TOKEN=UPSTREAM)) for _ in range(2)]
        servers = [server.wait_ready() for server in started]
        entries = [RegistryEntry(env_idx=i, uid=f"u{i}", epoch=1, url=s.url) for i, s in enumerate(servers)]
        write_registry(registry, Registry(envs=tuple(entries)))
        port = free_port()
        variables = clean_environment(
            OSWORLD_ROUTER_PORT=str(port),
            OSWORLD_REGISTRY_FILE=str(registry),
            OSWORLD_TOKEN=TOKEN,
            OSWORLD_UPSTREAM_TOKEN=UPSTREAM,
        )
        router = stack.enter_context(ServerProcess("osworld_router", folder, variables, port))
        yield Pool(router.wait_ready(), servers)


def lock_step(clients: list[TrainerClient], call: Callable[[int, TrainerClient], T]) -> list[T]:
    """Make the same call on all envs at once and wait for the slowest, as the trainer's barrier does."""
    with ThreadPoolExecutor(len(clients)) as threads:
        return [future.result() for future in [threads.submit(call, i, c) for i, c in enumerate(clients)]]


def test_two_envs_in_lock_step_score_right_three_times(pool: Pool) -> None:
    clients = [pool.client(0), pool.client(1)]
    for episode in range(3):
        doer = episode % 2
        replies = lock_step(clients, lambda _, client: client.reset(task_config(RENAME)))
        assert [len(reply.obs_messages or []) for reply in replies] == [3, 3]
        lock_step(clients, lambda i, c, doer=doer: c.step(TERMINAL if i == doer else WAIT))  # type: ignore[misc]
        probe = pool.servers[doer].pid
        wait_until(lambda probe=probe: "Terminal" in guest_execute(probe, "wmctrl -l"), 20, "a terminal")  # type: ignore[misc]
        steps = lock_step(clients, lambda i, c, doer=doer: c.step(RENAMING if i == doer else WAIT))  # type: ignore[misc]
        ends = lock_step(clients, lambda _, client: client.step(FINISHED))
        assert all(reply.is_legal for reply in [*replies, *steps, *ends])
        assert [reply.format_reward for reply in [*steps, *ends]] == [0.0] * 4
        scores = lock_step(clients, lambda _, client: client.evaluate())
        assert scores == [1.0 if i == doer else 0.0 for i in range(2)]
    assert [client.errors for client in clients] == [[], []]


def test_one_env_is_evaluated_while_the_other_still_steps(pool: Pool) -> None:
    first, second = pool.client(0), pool.client(1)
    lock_step([first, second], lambda _, client: client.reset(task_config(INFEASIBLE[0])))
    first.step(FAIL)
    stepping = threading.Event()

    def steps() -> list[TrainerReply]:
        replies = []
        for _ in range(5):
            replies.append(second.step(WAIT))
            stepping.set()
        return replies

    with ThreadPoolExecutor(1) as threads:
        others = threads.submit(steps)
        assert stepping.wait(30)
        assert first.evaluate() == 1.0
        assert all(reply.is_legal and not reply.is_done for reply in others.result())
    second.step(FINISHED)
    assert second.evaluate() == 0.0


@pytest.mark.parametrize("pauses_s", [(0.0, 0.0), (0.05, 0.1, 0.15, 0.2)], ids=["3 at once", "5 with growing pauses"])
def test_evaluate_before_a_reset_is_no_score_whatever_the_habit(tmp_path: Path, pauses_s: tuple[float, ...]) -> None:
    with env_server(tmp_path) as server:
        server.wait_ready()
        client = TrainerClient(server.url, None, pauses_s)
        assert client.evaluate() == 0.0, "the client's own zero: nothing on the wire can prevent it"
        assert len(client.errors) == len(pauses_s) + 1
        assert all("503" in error for error in client.errors), "no reply was a number"
        assert client.reset(task_config(INFEASIBLE[0])).is_legal
        client.step(FAIL)
        assert client.evaluate() == 1.0


def test_when_every_reset_fails_the_batch_is_skipped(pool: Pool) -> None:
    broken: dict[str, Any] = {
        "instruction": "x",
        "config": [{"type": "execute", "parameters": {"command": ["no-such-program"]}}],
        "evaluator": {"func": "infeasible"},
    }
    clients = [pool.client(0), pool.client(1)]
    replies = lock_step(clients, lambda _, client: client.reset(broken))
    assert [(reply.obs_messages, reply.is_done) for reply in replies] == [(None, True)] * 2, "batch_skipped"
    assert [reply.format_reward for reply in replies] == [0.0, 0.0]
    assert lock_step(clients, lambda _, client: client.evaluate()) == [0.0, 0.0]
    assert all("503" in error for client in clients for error in client.errors)
    fault = httpx.post(f"{pool.router.url}/envs/0/env/evaluate", json={}, auth=("job", TOKEN)).json()["fault"]
    assert (fault["kind"], fault["reason"], fault["masked"]) == ("task", "setup_failed", True)
    assert client_after(pool).is_legal


def client_after(pool: Pool) -> TrainerReply:
    """Return the reset that follows on env 0: the env is still usable."""
    return pool.client(0).reset(task_config(INFEASIBLE[0]))
