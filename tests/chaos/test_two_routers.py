"""Two routers of one pool, and a balancer that sends a client's calls to either: what one does not know is no score."""

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

from chaos.player import FAIL, FINISHED, SAYING
from osworld_env.ports import free_port
from server_process import ServerProcess, clean_environment
from tasks_of import INFEASIBLE, task_config
from trainer_client import TrainerClient
from up_process import READY_DEADLINE_S, TOKEN, Up, alive
from waiting import wait_until

LETTERS = [f"Thought: say {letter}.\nAction: type(content='echo {letter} >> ~/said\\n')" for letter in "abc"]


@dataclass
class Routers:
    """A pool with a router of its own and a second one beside it, and a client at each."""

    up: Up
    process: ServerProcess
    """Of the second one."""
    first: TrainerClient
    second: TrainerClient


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, ServerProcess]]:
    """Start a pool with its router, and a second router beside it; each is told of the other."""
    folder, port = tmp_path_factory.mktemp("routers"), free_port()
    peer = {"OSWORLD_ROUTER_PEERS": f"http://127.0.0.1:{port}"}
    with Up(folder, envs=1, spares=1, variables=peer, step_pause_s=0.5) as up:
        given = psutil.Process(up.router_pid).environ()
        own = {name: value for name, value in given.items() if name.startswith("OSWORLD_") and "LISTEN" not in name}
        own |= {"OSWORLD_ROUTER_PEERS": up.url, "OSWORLD_ROUTER_PORT": str(port), "OSWORLD_TOKEN": TOKEN}
        own |= {"OSWORLD_ROUTER_BODY_LIMIT_MIB": "1"}
        with ServerProcess("osworld_router", folder, clean_environment(**own), port) as process:
            process.wait_ready()
            yield up, process


@pytest.fixture
def routers(pool: tuple[Up, ServerProcess]) -> Routers:
    up, process = pool
    wait_until(lambda: len(env_servers(up)) == 2, READY_DEADLINE_S, "a spare")
    first, second = (TrainerClient(url, ("job", TOKEN)) for url in (up.url, process.url))
    return Routers(up, process, first, second)


def env_servers(up: Up) -> dict[int, int]:
    """Return the env servers that are ready: their process ids by port."""
    said = " ".join(up.log.split())  # it may be wrapped
    ready = {int(port): int(pid) for pid, port in re.findall(r"is ready: pid (\d+), port (\d+)", said)}
    running = alive(list(ready.values()))
    return {port: pid for port, pid in ready.items() if pid in running}


def kill_env_server(up: Up) -> None:
    [entry] = up.registry.envs
    os.kill(env_servers(up)[int(entry.url.rpartition(":")[2])], signal.SIGKILL)


def logged(up: Up, text: str) -> int:
    return (up.run_dir / "router.log").read_text(errors="replace").count(text)


def kill_first_router(up: Up) -> None:
    """Kill the pool's own router, and wait for the next one."""
    before = logged(up, "router listening")
    os.kill(up.router_pid, signal.SIGKILL)
    wait_until(lambda: logged(up, "router listening") > before, 60, "another router")


@pytest.mark.parametrize("is_restarted", [False, True])
def test_an_episode_that_went_on_through_another_router_is_not_played_again(
    routers: Routers, is_restarted: bool
) -> None:
    up, first, second = routers.up, routers.first, routers.second
    before = logged(up, "result=another_router")
    assert first.reset(SAYING).is_legal
    assert not first.step(LETTERS[0]).is_done
    assert not second.step(LETTERS[1]).is_done
    kill_env_server(up)
    if is_restarted:
        routers.process.restart(signal.SIGKILL)  # and knows nothing any more
    lost = first.step(LETTERS[2])  # this router knows of one step
    assert (lost.obs_messages, lost.is_done, lost.format_reward) == (None, True, 0.0)
    first.evaluate()
    assert len(first.errors) == 3, "no try at the evaluate had a number"
    assert logged(up, "result=another_router") > before


def test_the_router_that_went_on_with_an_episode_has_it_played_again(routers: Routers) -> None:
    up, first, second = routers.up, routers.first, routers.second
    assert first.reset(SAYING).is_legal
    for letter in LETTERS[:2]:
        assert not second.step(letter).is_done
    kill_env_server(up)
    assert not second.step(LETTERS[2]).is_done
    assert second.step(FINISHED).is_done
    assert second.evaluate() == 1.0
    assert second.errors == []


def test_an_episode_that_was_played_again_elsewhere_goes_on_there(routers: Routers) -> None:
    up, first, second = routers.up, routers.first, routers.second
    assert second.reset(SAYING).is_legal
    assert not second.step(LETTERS[0]).is_done
    assert not first.step(LETTERS[1]).is_done
    kill_env_server(up)
    assert not first.step(LETTERS[2]).is_done
    kill_first_router(up)
    assert second.step(FINISHED).is_done  # this router knows of one step, on an env server that is gone
    assert second.evaluate() == 1.0
    assert second.errors == []


def score_through(client: TrainerClient) -> None:
    """Play an episode that is short."""
    assert client.reset(task_config(INFEASIBLE[0])).is_legal
    assert client.step(FAIL).is_done
    assert client.evaluate() == 1.0
    assert client.errors == []


def test_a_reset_that_failed_at_another_router_leaves_no_score_here(routers: Routers) -> None:
    first, second = routers.first, routers.second
    score_through(first)
    too_large = SAYING | {"filler": "x" * (2 << 20)}
    assert second.reset(too_large).obs_messages is None, "its env server never hears of it"
    first.evaluate()
    assert len(first.errors) == 3, "no try had a number: the client's last reset failed"


def test_a_reset_that_a_dead_router_refused_leaves_no_score_here(routers: Routers) -> None:
    first, second = routers.first, routers.second
    score_through(first)
    routers.process.stop(signal.SIGKILL)
    try:
        assert second.reset(SAYING).obs_messages is None
        first.evaluate()
        assert len(first.errors) == 3, "no try had a number: the client's last reset failed"
    finally:
        routers.process.restart(signal.SIGKILL)
    first.evaluate()
    assert len(first.errors) == 6, "and the next one knows nothing of it"
