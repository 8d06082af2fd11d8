"""The task worker on a real desktop: OSWorld's scores, and what goes wrong in its own process."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest
import pytest_asyncio

from osworld_contract.faults import FaultError, FaultReason
from osworld_contract.task import parse_task
from osworld_envpod.desktops.base import Desktop
from osworld_envpod.desktops.xvfb import XvfbDesktop, XvfbSettings
from osworld_envpod.tasks.settings import WorkerSettings
from osworld_envpod.tasks.worker import TaskWorker
from process_looks import runs
from task_parts import a_task, execute, session_processes, shell_result
from tasks_of import INFEASIBLE, RENAME, task_config
from waiting import wait_for

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

DEADLINE_S = 60.0
NO_ACTIONS: list[str] = []


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def desktop() -> AsyncIterator[Desktop]:
    async with XvfbDesktop(XvfbSettings(spares=0)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def worker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TaskWorker]:
    async with TaskWorker(WorkerSettings(cache_dir=tmp_path_factory.mktemp("worker"))) as running:
        yield running


async def in_desktop(desktop: Desktop, command: str) -> None:
    at = desktop.addresses
    async with httpx.AsyncClient(timeout=30) as client:
        body = {"command": command, "shell": True}
        reply = await client.post(f"http://{at.host}:{at.server_port}/execute", json=body)
    assert reply.json()["returncode"] == 0


async def fault_of(operation: object) -> FaultError:
    with pytest.raises(FaultError) as caught:
        await operation  # type: ignore[misc]  # any coroutine of the worker's
    return caught.value


async def test_score_is_that_of_the_desktops_state(desktop: Desktop, worker: TaskWorker) -> None:
    task = parse_task(task_config(RENAME))
    await desktop.revert(DEADLINE_S)
    report = await worker.setup(task, desktop.addresses, DEADLINE_S)
    assert report.steps == 2
    assert await worker.evaluate(task, desktop.addresses, ["DONE"], DEADLINE_S) == 0.0
    await in_desktop(desktop, "mv ~/Desktop/todo_list_Jan_1 ~/Desktop/todo_list_Jan_2")
    assert await worker.evaluate(task, desktop.addresses, ["DONE"], DEADLINE_S) == 1.0
    assert await worker.evaluate(task, desktop.addresses, ["DONE", "FAIL"], DEADLINE_S) == 0.0


@pytest.mark.parametrize("name", INFEASIBLE)
async def test_infeasible_task_scores_by_the_last_action(desktop: Desktop, worker: TaskWorker, name: str) -> None:
    task = parse_task(task_config(name))
    await worker.setup(task, desktop.addresses, DEADLINE_S)
    for history, score in ((["WAIT", "FAIL"], 1.0), (["FAIL", "DONE"], 0.0), ([], 0.0)):
        assert await worker.evaluate(task, desktop.addresses, history, DEADLINE_S) == score


@pytest.mark.parametrize(
    "step",
    [
        execute("no-such-program --really"),
        execute(["no-such-program"]),
        {"type": "launch", "parameters": {"command": ["no-such-program"]}},
        {"type": "open", "parameters": {"path": "/home/user/nothing.odt"}},
        {"type": "change_wallpaper", "parameters": {"path": "/home/user/nothing.png"}},
        {"type": "upload_file", "parameters": {"files": [{"local_path": "/nothing", "path": "/home/user/x"}]}},
        {"type": "tidy_desktop", "parameters": {}},
    ],
    ids=["shell", "execute", "launch", "open", "wallpaper", "upload", "unwritten"],
)
async def test_failed_setup_step_is_a_fault_that_names_it(
    desktop: Desktop, worker: TaskWorker, step: dict[str, object]
) -> None:
    task = a_task(execute("true"), step)
    fault = (await fault_of(worker.setup(task, desktop.addresses, DEADLINE_S))).fault
    assert fault.reason is FaultReason.SETUP_FAILED
    assert (fault.evidence["step"], fault.evidence["type"]) == (1, step["type"])
    assert fault.operation == "reset"


async def test_setup_command_may_fail_in_its_own_way(desktop: Desktop, worker: TaskWorker) -> None:
    report = await worker.setup(a_task(execute("exit 3")), desktop.addresses, DEADLINE_S)
    assert report.steps == 1


async def test_missing_file_of_the_agents_is_a_zero(desktop: Desktop, worker: TaskWorker) -> None:
    result = {"type": "vm_file", "path": "/home/user/nothing.txt", "dest": "nothing.txt"}
    task = a_task(func="compare_text_file", result=result)
    assert await worker.evaluate(task, desktop.addresses, NO_ACTIONS, DEADLINE_S) == 0.0


async def test_missing_program_of_the_agents_is_a_zero(desktop: Desktop, worker: TaskWorker) -> None:
    script = execute(["bash", "/home/user/the-agents-script.sh"])
    task = a_task(postconfig=[script], result={"type": "vm_command_line", "command": ["the-agents-program"]})
    assert await worker.evaluate(task, desktop.addresses, NO_ACTIONS, DEADLINE_S) == 0.0


async def test_missing_program_of_the_postconfigs_is_a_fault(desktop: Desktop, worker: TaskWorker) -> None:
    task = a_task(postconfig=[execute("no-such-program")])
    fault = (await fault_of(worker.evaluate(task, desktop.addresses, NO_ACTIONS, DEADLINE_S))).fault
    assert fault.reason is FaultReason.EVALUATE_FAILED
    assert "no-such-program" in fault.message


async def test_what_the_postconfig_ended_has_time_to_save(desktop: Desktop, worker: TaskWorker) -> None:
    saves = "trap 'sleep 0.3; echo kept > ~/kept; exit' TERM; touch ~/began; while :; do sleep 0.05; done"
    begins = execute(f'setsid bash -c "{saves}" at-its-end >/dev/null 2>&1 & until [ -e ~/began ]; do sleep 0.05; done')
    task = a_task(begins, postconfig=[execute(["pkill", "-f", "at-its-end"])], result=shell_result("cat ~/kept"))
    task.evaluator.expected = {"type": "rule", "rules": {"expected": "kept\n"}}
    await worker.setup(task, desktop.addresses, DEADLINE_S)
    assert await worker.evaluate(task, desktop.addresses, NO_ACTIONS, DEADLINE_S) == 1.0


async def test_what_setup_steps_keep_is_there_for_the_evaluator(desktop: Desktop, worker: TaskWorker) -> None:
    step = execute("echo kept")
    step["parameters"]["stdout"] = "kept.txt"
    task = a_task(step, func="is_in_list", result={"type": "cache_file", "path": "kept.txt"})
    task.evaluator.expected = {"type": "rule", "rules": {"expected": "x"}}
    await worker.setup(task, desktop.addresses, DEADLINE_S)
    score = await worker.evaluate(task, desktop.addresses, NO_ACTIONS, DEADLINE_S)
    assert 0.0 <= score <= 1.0


async def test_evaluator_that_raises_is_a_fault(desktop: Desktop, worker: TaskWorker) -> None:
    task = a_task(expected={"type": "rule", "rules": {"unknown": 1}})
    fault = (await fault_of(worker.evaluate(task, desktop.addresses, NO_ACTIONS, DEADLINE_S))).fault
    assert fault.reason is FaultReason.EVALUATE_FAILED
    assert "KeyError" in fault.message
    assert "exact_match" in str(fault.evidence["traceback"])


async def test_hang_ends_inside_the_deadline_and_the_next_operation_works(desktop: Desktop, worker: TaskWorker) -> None:
    deadline_s = 4.0
    hanging = a_task(execute("sleep 50"), result=shell_result("sleep 50"))
    for reason, operation in (
        (FaultReason.EVALUATE_TIMEOUT, worker.evaluate(hanging, desktop.addresses, NO_ACTIONS, deadline_s)),
        (FaultReason.SETUP_TIMEOUT, worker.setup(hanging, desktop.addresses, deadline_s)),
    ):
        began_s = time.monotonic()
        fault = (await fault_of(operation)).fault
        assert time.monotonic() - began_s <= deadline_s
        assert fault.reason in {reason, FaultReason.GUEST_TIMEOUT}
    assert await worker.evaluate(a_task(), desktop.addresses, NO_ACTIONS, DEADLINE_S) == 1.0


@pytest.mark.parametrize("is_runner", [True, False], ids=["runner", "worker"])
async def test_killed_worker_is_a_fault_and_comes_back(desktop: Desktop, worker: TaskWorker, is_runner: bool) -> None:
    evaluating = asyncio.create_task(
        worker.evaluate(a_task(result=shell_result("sleep 50")), desktop.addresses, NO_ACTIONS, DEADLINE_S)
    )
    assert worker.pid is not None
    whole = psutil.Process(worker.pid)
    runner = (await wait_for(whole.children, 30, "a runner"))[0]
    os.kill(runner.pid if is_runner else whole.pid, signal.SIGKILL)
    fault = (await fault_of(evaluating)).fault
    assert fault.reason is FaultReason.WORKER_LOST
    assert fault.evidence["exit_code"] == -signal.SIGKILL
    assert not runs(runner)
    assert await worker.evaluate(a_task(), desktop.addresses, NO_ACTIONS, DEADLINE_S) == 1.0


async def test_memory_over_the_limit_is_a_fault(desktop: Desktop, tmp_path: Path) -> None:
    settings = WorkerSettings(cache_dir=tmp_path / "worker", memory_limit_mib=330, watch_interval_s=0.05)
    task = a_task(result=shell_result("head -c 48M /dev/zero | tr '\\0' x"))
    async with TaskWorker(settings) as small:
        fault = (await fault_of(small.evaluate(task, desktop.addresses, NO_ACTIONS, DEADLINE_S))).fault
        assert fault.reason is FaultReason.WORKER_MEMORY
        assert await small.evaluate(a_task(), desktop.addresses, NO_ACTIONS, DEADLINE_S) == 1.0


async def test_unknown_metric_is_refused_before_anything_runs(desktop: Desktop, worker: TaskWorker) -> None:
    task = a_task(execute("touch ~/was-run"), func="no_such_metric")
    for operation in (
        worker.check(task),
        worker.setup(task, desktop.addresses, DEADLINE_S),
        worker.evaluate(task, desktop.addresses, NO_ACTIONS, DEADLINE_S),
    ):
        fault = (await fault_of(operation)).fault
        assert (fault.reason, fault.evidence["field"]) == (FaultReason.BAD_TASK, "evaluator.func")
    await in_desktop(desktop, "[ ! -e ~/was-run ]")


async def test_desktop_that_ends_in_the_middle_is_a_fault(worker: TaskWorker) -> None:
    task = a_task(postconfig=[{"type": "sleep", "parameters": {"seconds": 2}}])
    async with XvfbDesktop(XvfbSettings(spares=0)) as doomed:
        evaluating = asyncio.create_task(worker.evaluate(task, doomed.addresses, NO_ACTIONS, 20))
        assert worker.pid is not None
        await wait_for(psutil.Process(worker.pid).children, 30, "a runner")
        await doomed.stop(DEADLINE_S)
        fault = (await fault_of(evaluating)).fault
    assert fault.reason is FaultReason.GUEST_UNREACHABLE


async def test_stop_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "worker"
    stopped = TaskWorker(WorkerSettings(cache_dir=folder))
    await stopped.start(DEADLINE_S)
    session = stopped.pid
    assert session is not None
    assert session_processes(session)
    await stopped.stop(DEADLINE_S)
    await stopped.stop(DEADLINE_S)
    assert session_processes(session) == []
    assert not folder.exists()
