"""A task worker that starts while another process makes its environment: it waits, says so, and goes on."""

import asyncio
import fcntl
import logging
from pathlib import Path

import pytest

from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.tasks.environment import await_environment
from osworld_envpod.tasks.provision import lock_path
from osworld_envpod.tasks.settings import WorkerSettings, worker_python
from osworld_envpod.tasks.worker import TaskWorker
from waiting import wait_for

pytestmark = pytest.mark.timeout(120)

DEADLINE_S = 60.0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, which is this machine's for the test."""
    monkeypatch.setenv("OSWORLD_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


async def test_a_start_beside_an_install_waits_for_its_end(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as real:
        real.delenv("OSWORLD_CACHE_DIR")
        made = worker_python().parents[1]
    caplog.set_level(logging.INFO)
    worker = TaskWorker(WorkerSettings(cache_dir=tmp_path / "own", sandbox=False))
    with lock_path().open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        starting = asyncio.create_task(worker.start(DEADLINE_S))
        await wait_for(lambda: "another process makes" in caplog.text, 30, "the worker's word")
        assert not starting.done()
        (cache / "task-worker").symlink_to(made)
    try:
        await starting
        assert worker.pid is not None
    finally:
        await worker.stop(DEADLINE_S)


async def test_where_nobody_makes_it_the_remedy_is_said_at_once(cache: Path, tmp_path: Path) -> None:
    lock_path().touch()
    worker = TaskWorker(WorkerSettings(cache_dir=tmp_path / "own", sandbox=False))
    with pytest.raises(FaultError) as caught:
        await worker.start(DEADLINE_S)
    assert caught.value.fault.reason == FaultReason.WORKER_START_FAILED
    assert "osworld_envpod.tasks.provision" in caught.value.fault.message


async def test_the_wait_has_an_end(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    with lock_path().open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        await await_environment(cache / "task-worker" / "bin" / "python", deadline_s=0)
    assert "has not come within 0 s" in caplog.text
