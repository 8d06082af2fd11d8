"""The task worker's processes: how they begin, and that none outlives its operation, its worker or its env server."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.tasks.settings import WorkerSettings
from osworld_envpod.tasks.worker import TaskWorker
from process_looks import name_of, runs, words_of
from task_parts import a_task, guest_at, http_server, session_processes, well
from waiting import wait_for

pytestmark = pytest.mark.timeout(180)

DEADLINE_S = 60.0


async def test_stop_in_the_middle_of_an_operation_leaves_nothing(tmp_path: Path) -> None:
    stopped = TaskWorker(WorkerSettings(cache_dir=tmp_path / "own"))
    await stopped.start(DEADLINE_S)
    session = stopped.pid
    assert session is not None
    with http_server(well) as port:
        task = a_task({"type": "sleep", "parameters": {"seconds": 50}})
        setting_up = asyncio.create_task(stopped.setup(task, guest_at(port), DEADLINE_S))
        await wait_for(psutil.Process(session).children, 30, "a runner")
        await stopped.stop(DEADLINE_S)
        with pytest.raises(FaultError) as caught:
            await setting_up
    assert caught.value.fault.reason is FaultReason.WORKER_LOST
    assert stopped.pid is None
    assert session_processes(session) == []


async def test_worker_without_its_environment_is_a_named_fault(tmp_path: Path) -> None:
    for python in (tmp_path / "nothing", Path(sys.executable)):
        lost = TaskWorker(WorkerSettings(cache_dir=tmp_path / "own", python=python))
        with pytest.raises(FaultError) as caught:
            await lost.start(DEADLINE_S)
        assert caught.value.fault.reason is FaultReason.WORKER_START_FAILED
        assert lost.pid is None
        await lost.stop(DEADLINE_S)


_OWNER = """
import asyncio, sys
from pathlib import Path
from osworld_envpod.tasks.settings import WorkerSettings
from osworld_envpod.tasks.worker import TaskWorker
from task_parts import a_task, guest_at

async def main():
    async with TaskWorker(WorkerSettings(cache_dir=Path(sys.argv[1]))) as worker:
        task = a_task({"type": "sleep", "parameters": {"seconds": 100}})
        await worker.setup(task, guest_at(int(sys.argv[2])), 90)

asyncio.run(main())
"""


async def test_worker_does_not_outlive_a_killed_env_server(tmp_path: Path) -> None:
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with http_server(well) as port:
        argv = [sys.executable, "-c", _OWNER, str(tmp_path / "own"), str(port)]
        owner = await asyncio.create_subprocess_exec(*argv, env=environment)
        try:
            below = await wait_for(lambda: two_below(owner.pid), DEADLINE_S, "worker and runner")
            owner.send_signal(signal.SIGKILL)
            await wait_for(lambda: not any(runs(process) for process in below), 30, "their end")
        finally:
            if owner.returncode is None:
                owner.kill()
            await asyncio.wait_for(owner.wait(), 10)


def two_below(owner: int) -> list[psutil.Process]:
    """Return all processes below `owner` once a worker and its runner are among them: both past their start-up."""
    below = psutil.Process(owner).children(recursive=True)
    workers = [process for process in below if runs(process) and is_worker(process)]
    return below if len(workers) >= 2 else []


def is_worker(process: psutil.Process) -> bool:
    return name_of(process) != "bwrap" and "__main__.py worker" in words_of(process)
