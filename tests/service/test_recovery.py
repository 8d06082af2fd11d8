"""Lost episodes that go on as if nothing had happened: real env servers, killed; real desktops, played again."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from chaos.player import FINISHED, SAYING
from osworld_contract.faults import FaultError, FaultReason
from osworld_contract.record import RECORD_FILE, RecordLine
from osworld_contract.wire import EnvReply
from osworld_env import EnvClient
from process_looks import name_of
from up_process import READY_DEADLINE_S, Up, alive
from waiting import wait_until

pytestmark = pytest.mark.timeout(300)


def say(letter: str) -> str:
    """Return what types a command: its step takes over two seconds."""
    return f"Thought: say {letter}.\nAction: type(content='echo {letter} >> ~/said\\n')"


def task(**of_evaluator: object) -> dict[str, Any]:
    """Return the task of saying a, b and c, whose score shows a step that is lost or carried out twice."""
    copy: dict[str, Any] = json.loads(json.dumps(SAYING))
    copy["evaluator"] |= of_evaluator
    return copy


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("up"), envs=1, spares=1, step_pause_s=0.5) as running:
        yield running


@pytest.fixture
def client(up: Up) -> Iterator[EnvClient]:
    wait_until(lambda: len(env_servers(up)) == 2, READY_DEADLINE_S, "a spare")
    with EnvClient(up.token_url) as client:
        yield client


def env_servers(up: Up) -> dict[int, int]:
    """Return the env servers that are ready: their process ids by port."""
    said = " ".join(up.log.split())  # it may be wrapped
    ready = {int(port): int(pid) for pid, port in re.findall(r"is ready: pid (\d+), port (\d+)", said)}
    running = alive(list(ready.values()))
    return {port: pid for port, pid in ready.items() if pid in running}


def pid_of_env(up: Up) -> int:
    [entry] = up.registry.envs
    return env_servers(up)[int(entry.url.rpartition(":")[2])]


def recoveries(up: Up, result: str) -> float:
    name = f'osworld_router_recoveries_total{{result="{result}"}} '
    lines = httpx.get(f"{up.url}/metrics").text.splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def logged(up: Up, text: str) -> int:
    return sum(path.read_text(errors="replace").count(text) for path in up.run_dir.glob("*.log"))


def killed_in(up: Up, call: Callable[[], EnvReply], delay_s: float = 0.8) -> EnvReply:
    """Make a step, and kill its env server in the middle of it."""
    before = logged(up, "step_parse: ok")
    victim = pid_of_env(up)
    with ThreadPoolExecutor(1) as thread:
        reply = thread.submit(call)
        wait_until(lambda: logged(up, "step_parse: ok") > before, 30, "the step to begin")
        time.sleep(delay_s)  # what is measured is a death in the middle of a step: nothing tells of its middle
        os.kill(victim, signal.SIGKILL)
        return reply.result()


def test_a_step_that_loses_its_env_server_is_carried_out_once_elsewhere(up: Up, client: EnvClient) -> None:
    before = recoveries(up, "recovered")
    client.reset(task())
    client.step(say("a"))
    reply = killed_in(up, lambda: client.step(say("b")))
    assert reply.fault is None
    assert reply.obs_messages is not None
    assert len(reply.obs_messages) == 3 + 2 * 2, "the whole conversation"
    client.step(say("c"))
    client.step(FINISHED)
    assert client.evaluate() == 1.0
    assert recoveries(up, "recovered") == before + 1
    assert up.registry.envs[0].epoch > 1


def test_an_episode_whose_env_server_dies_between_two_calls_goes_on(up: Up, client: EnvClient) -> None:
    client.reset(task())
    for letter in "abc":
        client.step(say(letter))
    os.kill(pid_of_env(up), signal.SIGKILL)
    assert client.step(FINISHED).fault is None
    assert client.evaluate() == 1.0


def test_an_evaluate_finds_its_env_server_dead(up: Up, client: EnvClient) -> None:
    client.reset(task())
    for prediction in (say("a"), say("b"), say("c"), FINISHED):
        client.step(prediction)
    os.kill(pid_of_env(up), signal.SIGKILL)
    assert client.evaluate() == 1.0
    assert client.evaluate() == 1.0, "the second one is asked for where the first one was"


def test_a_desktop_that_ends_is_replaced_in_place(up: Up, client: EnvClient) -> None:
    client.reset(task())
    client.step(say("a"))
    [entry] = up.registry.envs
    server = psutil.Process(pid_of_env(up))
    [screen] = [child for child in server.children(recursive=True) if name_of(child) == "Xvfb"]
    screen.kill()
    for letter in "bc":
        assert client.step(say(letter)).fault is None
    client.step(FINISHED)
    assert client.evaluate() == 1.0
    assert up.registry.envs == (entry,), "nobody else had to help"


def test_a_desktop_that_ends_before_the_last_step_is_replaced_as_well(up: Up, client: EnvClient) -> None:
    client.reset(task())
    for letter in "abc":
        client.step(say(letter))
    [screen] = [child for child in psutil.Process(pid_of_env(up)).children(recursive=True) if name_of(child) == "Xvfb"]
    screen.kill()
    client.step(FINISHED)
    assert client.evaluate() == 1.0


def test_a_desktop_that_comes_out_another_way_is_a_masked_fault(up: Up, client: EnvClient) -> None:
    client.reset(task())
    client.step("Thought: chance.\nAction: type(content='echo $RANDOM$RANDOM\\n')")
    os.kill(pid_of_env(up), signal.SIGKILL)
    with pytest.raises(FaultError) as caught:
        client.step(say("b"))
    assert caught.value.fault.reason is FaultReason.REPLAY_DIVERGED
    assert caught.value.fault.masked
    with pytest.raises(FaultError):
        client.evaluate()
    assert recoveries(up, "diverged") == 1


def test_no_score_after_postconfig_may_have_begun(up: Up, client: EnvClient) -> None:
    client.reset(task(postconfig=[{"type": "execute", "parameters": {"command": ["sleep", "5"]}}]))
    client.step(FINISHED)
    victim = pid_of_env(up)
    before = logged(up, "POST /env/evaluate received")
    with ThreadPoolExecutor(1) as thread:
        score = thread.submit(client.evaluate)
        wait_until(lambda: logged(up, "POST /env/evaluate received") > before, 30, "the evaluate to begin")
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(FaultError) as caught:
            score.result()
    assert caught.value.fault.masked


def test_a_trainer_that_resets_gets_a_new_episode_all_the_same(up: Up, client: EnvClient) -> None:
    client.reset(task())
    client.step(say("a"))
    os.kill(pid_of_env(up), signal.SIGKILL)
    client.reset(task())
    for prediction in (say("a"), say("b"), say("c"), FINISHED):
        client.step(prediction)
    assert client.evaluate() == 1.0


def kill_router(up: Up) -> None:
    """Kill the router, and wait for the next one."""
    victim = up.router_pid
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: is_served_again(up, victim), 60, "another router")


def is_served_again(up: Up, before: int) -> bool:
    try:
        return up.router_pid != before and httpx.get(f"{up.url}/readyz").status_code == 200
    except (httpx.HTTPError, ValueError, psutil.Error):
        return False


def test_a_router_that_starts_again_knows_the_episodes(up: Up, client: EnvClient) -> None:
    client.reset(task())
    client.step(say("a"))
    kill_router(up)
    wait_until(lambda: "its episode is known again, 1 steps" in router_log(up), 30, "the journal")
    reply = killed_in(up, lambda: client.step(say("b")))
    assert reply.fault is None
    client.step(say("c"))
    client.step(FINISHED)
    assert client.evaluate() == 1.0
    assert recoveries(up, "recovered") == 1, "of this router"


def test_an_episode_outlives_its_env_server_and_its_router(up: Up, client: EnvClient) -> None:
    """Both that knew it are gone, as with the node they shared: its client tells the next router."""
    client.reset(task())
    client.step(say("a"))
    client.step(say("b"))
    known = "its client told of its episode, 2 steps are known"
    before = logged(up, known)
    router, server = up.router_pid, pid_of_env(up)
    os.kill(router, signal.SIGKILL)
    os.kill(server, signal.SIGKILL)
    assert client.step(say("c")).fault is None
    assert logged(up, known) == before + 1
    client.step(FINISHED)
    assert client.evaluate() == 1.0


def router_log(up: Up) -> str:
    return (up.run_dir / "router.log").read_text(errors="replace")


def test_an_episode_goes_on_whose_router_dies_while_it_is_played_again(up: Up, client: EnvClient) -> None:
    client.reset(task())
    client.step(say("a"))
    os.kill(pid_of_env(up), signal.SIGKILL)
    before = logged(up, " begins: task=")
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(client.step, say("b"))
        wait_until(lambda: logged(up, " begins: task=") > before, 30, "the replay to begin")
        kill_router(up)
        assert call.result().fault is None
    client.step(say("c"))
    client.step(FINISHED)
    assert client.evaluate() == 1.0


def test_each_call_outlives_its_router(up: Up, client: EnvClient) -> None:
    """The client asks again under the same key: nothing is done twice, and the score is that of what it has seen."""
    client.health()
    calls: list[tuple[Callable[[], object], str]] = [(lambda: client.reset(task()), " begins: task=")]
    calls += [(lambda: client.step(say("a")), "step_parse: ok")]
    for call, begins in calls:
        before = logged(up, begins)
        with ThreadPoolExecutor(1) as thread:
            reply = thread.submit(call)
            wait_until(lambda before=before, begins=begins: logged(up, begins) > before, 30, "the call")  # type: ignore[misc]
            kill_router(up)
            reply.result()
    for prediction in (say("b"), say("c"), FINISHED):
        client.step(prediction)
    kill_router(up)
    assert client.evaluate() == 1.0, "a router that has seen nothing of the episode passes it on"


def test_without_a_spare_a_frozen_env_server_goes_on_and_a_killed_one_is_waited_for(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with Up(tmp_path_factory.mktemp("alone"), envs=1, step_pause_s=0.5) as alone, EnvClient(alone.token_url) as client:
        client.reset(task())
        client.step(say("a"))
        victim = pid_of_env(alone)
        os.kill(victim, signal.SIGSTOP)
        thaw = threading.Timer(6, os.kill, (victim, signal.SIGCONT))
        thaw.start()
        assert client.step(say("b")).fault is None
        assert pid_of_env(alone) == victim
        os.kill(victim, signal.SIGKILL)
        assert client.step(say("c")).fault is None
        client.step(FINISHED)
        assert client.evaluate() == 1.0
        assert (recoveries(alone, "came_back"), recoveries(alone, "recovered")) == (1, 1)


def test_what_is_not_played_again_ends_in_a_fault_that_is_in_its_record(tmp_path: Path) -> None:
    """The env server is dead and what the router told its client is all there is to know: the next reset brings it."""
    root = tmp_path / "records"
    variables = {"OSWORLD_EPISODE_RECORDS_DIR": str(root), "OSWORLD_ROUTER_RECOVERY_MIB": "0"}
    with Up(tmp_path, envs=1, spares=1, variables=variables) as up, EnvClient(up.token_url) as client:
        lost = {}
        for operation in ("step", "evaluate"):
            wait_until(lambda: len(env_servers(up)) == 2, READY_DEADLINE_S, "a spare")
            client.reset(task())
            client.step(say("a"))
            lost[operation] = httpx.get(f"{up.token_url}/envs/0/state").json()["episode_id"]
            if operation == "evaluate":
                os.kill(pid_of_env(up), signal.SIGKILL)
            with pytest.raises(FaultError, match="env_down"):
                client.evaluate() if operation == "evaluate" else killed_in(up, lambda: client.step(say("b")))
        client.reset(task())
        for operation, episode in lost.items():
            record = root / episode / RECORD_FILE
            wait_until(lambda record=record: "env_down" in record.read_text(), 30, "the fault")  # type: ignore[misc]
            calls = [RecordLine.model_validate_json(line) for line in record.read_text().splitlines()[1:]]
            assert [call.operation for call in calls] == ["reset", "step", operation]
            assert calls[-1].fault is not None and calls[-1].fault.reason is FaultReason.ENV_DOWN
        assert up.command("episodes", "list", "--dir", str(root)).stdout.count("fault infra/env_down") == 2
        page = tmp_path / "page.html"
        shown = up.command("episodes", "show", lost["step"], "--dir", str(root), "--page", str(page)).stdout
        assert shown.count("infra/env_down") == 2, "at the call and as the outcome"
        assert "its reply reached nobody" in page.read_text()
