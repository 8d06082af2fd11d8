"""The task worker against an agent whose files are run by an evaluator: what that code can reach, and what it leaves.

The code goes the way an agent's would (`hostile`).
"""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import psutil
import pytest
import pytest_asyncio

from hostile import run_hostile
from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.tasks.settings import HOST_UID, WorkerSettings
from osworld_envpod.tasks.worker import TaskWorker
from task_parts import Handler, http_server

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

CHECKOUT: Final = Path(__file__).parents[2]
GOLD: Final = b"gold"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def worker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TaskWorker]:
    folder = tmp_path_factory.mktemp("sandbox")
    settings = WorkerSettings(
        cache_dir=folder / "own", download_dir=folder / "downloads", environment={"OPENAI_API_KEY": "sk-the-evaluators"}
    )
    async with TaskWorker(settings) as running:
        yield running


async def test_host_is_out_of_reach(worker: TaskWorker, tmp_path: Path) -> None:
    assert worker.pid is not None
    (tmp_path / "secret").write_text("secret")
    downloads = worker._settings.download_dir
    downloads.mkdir(exist_ok=True)
    (downloads / "gold").write_bytes(GOLD)
    paths = [
        CHECKOUT / "pyproject.toml", CHECKOUT / ".env", tmp_path / "secret", Path("/root"), Path("/home"),
        Path("/etc/shadow"), Path("/var/cache/osworld-env"), Path("/run"), Path("/sys"), downloads / "gold",
        Path(f"/proc/{os.getpid()}/environ"), Path(f"/proc/{worker.pid}/environ"),
    ]  # fmt: skip
    score, found = await run_hostile(
        worker,
        f"""
        for path in {[str(path) for path in paths]!r}:
            attempt(path, lambda: os.stat(path) and path)
        attempt("pids", pids)
        attempt("me", os.getpid)
        attempt("parent", os.getppid)
        attempt("root", lambda: sorted(os.listdir("/")))
        attempt("etc", lambda: sorted(os.listdir("/etc")))
        attempt("environ", lambda: dict(os.environ))
        """,
    )
    assert score == 1.0
    assert {path: found[str(path)] for path in paths} == dict.fromkeys(paths)
    assert (found["parent"], found["pids"]) == (1, [1, found["me"]])
    assert set(found["root"]) <= {
        "bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "tmp", "usr", "var", "worker"
    }  # fmt: skip
    assert "passwd" in found["etc"]
    assert found["environ"]["OPENAI_API_KEY"] == "sk-the-evaluators"
    assert "PYTEST_CURRENT_TEST" in os.environ  # set before the worker was started
    assert "PYTEST_CURRENT_TEST" not in found["environ"]


async def test_nothing_but_the_workers_own_folders_can_be_written(worker: TaskWorker) -> None:
    python = worker._settings.python
    site = f"/worker/venv/lib/{next(python.parents[1].glob('lib/python3*')).name}/site-packages"
    _, found = await run_hostile(
        worker,
        f"""
        for folder in ("/", "/etc", "/dev", "/usr", "/var", "/worker", "/worker/code", "/worker/venv/bin", {site!r}):
            path = pathlib.Path(folder, "planted")
            attempt(folder, lambda: path.write_text("x"))
        attempt("remount", lambda: subprocess.run(["mount", "-o", "remount,rw", "/worker/venv"], check=True) and "done")
        attempt("userns", lambda: subprocess.run(["unshare", "-Ur", "true"], check=True) and "done")
        for folder in ("/tmp", "/dev/shm", os.environ["HOME"], os.environ["TMPDIR"], os.getcwd()):
            attempt("own " + folder, lambda: pathlib.Path(folder, "mine").write_text("x"))
        """,
    )
    own = {name for name in found if name.startswith("own ")}
    assert len(own) >= 4
    assert {name: found[name] for name in own} == dict.fromkeys(own, 1)
    others = found.keys() - own
    assert {name: found[name] for name in others} == dict.fromkeys(others)


async def test_sandbox_runs_as_nobodys_user(worker: TaskWorker) -> None:
    _, found = await run_hostile(worker, 'attempt("status", lambda: open("/proc/thread-self/status").read())')
    assert worker.pid is not None
    expected = HOST_UID if os.geteuid() == 0 else os.geteuid()
    assert psutil.Process(worker.pid).uids().real == expected
    assert psutil.Process(worker.pid).gids().real == (HOST_UID if os.geteuid() == 0 else os.getegid())
    capabilities = {line for line in found["status"].splitlines() if line.startswith("Cap")}
    assert all(line.endswith("\t" + "0" * 16) for line in capabilities)
    assert len(capabilities) == 5


async def test_zygote_cannot_be_changed(worker: TaskWorker) -> None:
    pid = worker.pid
    _, found = await run_hostile(
        worker,
        """
        attempt("mem", lambda: open("/proc/1/mem", "r+b") and "open")
        attempt("environ", lambda: open("/proc/1/environ").read())
        attempt("fds", lambda: os.listdir("/proc/1/fd"))
        attempt("pidfd", lambda: ctypes.CDLL(None, use_errno=True).syscall(438, os.pidfd_open(1), 3, 0))
        attempt("ptrace", lambda: ctypes.CDLL(None, use_errno=True).ptrace(16, 1, 0, 0))
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
            os.kill(1, number)
        def socket_or_none(fd):
            try:
                return fd if stat.S_ISSOCK(os.fstat(fd).st_mode) else None
            except OSError:
                return None
        attempt("sockets", lambda: [fd for fd in range(256) if socket_or_none(fd)])
        """,
    )
    assert (found["mem"], found["environ"], found["fds"]) == (None, None, None)
    assert (found["pidfd"], found["ptrace"]) == (-1, -1)
    assert len(found["sockets"]) <= 2  # to the file server, and what it keeps open to the desktop
    assert await run_hostile(worker, "") == (1.0, {})
    assert worker.pid == pid


async def test_nothing_is_left_for_the_next_operation(worker: TaskWorker) -> None:
    pid = worker.pid
    await run_hostile(
        worker,
        """
        for _ in range(20):
            subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1000; done"], start_new_session=True)
        for folder in ("/tmp", "/dev/shm", os.environ["HOME"], "/worker/cwd", "/worker/work"):
            inner = pathlib.Path(folder, "closed", "inner")
            inner.mkdir(parents=True)
            inner.chmod(0)
            inner.parent.chmod(0)
            attempt(folder, lambda: os.chmod(folder, 0))
        """,
    )
    _, found = await run_hostile(
        worker,
        """
        attempt("pids", lambda: len(pids()))
        for folder in ("/tmp", "/dev/shm", os.environ["HOME"], "/worker/cwd"):
            attempt(folder, lambda: os.listdir(folder))
        attempt("work", lambda: len(os.listdir("/worker/work")))
        """,
    )
    folders = {name: value for name, value in found.items() if name.startswith("/")}
    assert (found["pids"], found["work"]) == (2, 1)
    assert len(folders) == 4
    assert not any("closed" in names for names in folders.values())
    assert worker.pid == pid


async def test_changed_limits_cost_the_worker_and_not_the_next_score(worker: TaskWorker) -> None:
    pid = worker.pid
    score, found = await run_hostile(
        worker, 'attempt("limit", lambda: resource.prlimit(1, resource.RLIMIT_FSIZE, (0, 0)) and "set")'
    )
    assert (score, found["limit"]) == (1.0, "set")
    assert await run_hostile(worker, "") == (1.0, {})
    assert worker.pid != pid


@pytest.mark.parametrize(
    "report",
    [
        {"event": "ended", "exit_code": 0},
        {"event": "ready"},
        {"event": "result", "value": "one"},
        {"event": "result", "value": float("nan")},
        {"event": "fault", "reason": "no such", "message": "", "evidence": {}},
        {"event": "fault", "reason": "disk_full", "message": "", "evidence": 5},
        {"event": "step"},
        [],
    ],
    ids=lambda report: json.dumps(report)[:40],
)
async def test_forged_report_is_a_fault_of_its_own_operation(worker: TaskWorker, report: object) -> None:
    line = json.dumps(report).encode() + b"\n"
    forge = f"""
        for fd in os.listdir("/proc/self/fd"):
            attempt(fd, lambda: int(fd) > 2 and os.write(int(fd), {line!r}))
        """
    with pytest.raises(FaultError) as caught:
        await run_hostile(worker, forge)
    assert caught.value.fault.reason in {FaultReason.WORKER_LOST, FaultReason.EVALUATE_FAILED}
    assert await run_hostile(worker, "") == (1.0, {})


async def test_shared_downloads_are_the_file_servers_alone(worker: TaskWorker) -> None:
    asked: list[str] = []

    def files(handler: Handler) -> bool:
        asked.append(f"{handler.headers.get('Host')} {handler.path}")
        handler.answer(200, GOLD)
        return True

    with http_server(files) as port:
        address = f"http://127.0.0.1:{port}/gold"
        _, found = await run_hostile(
            worker,
            f"""
            import requests
            own = dict(headers={{"Host": "evil", "Range": "bytes=0-1"}}, proxies={{"http": "http://127.0.0.1:9"}})
            attempt("gold", lambda: requests.get({address!r}, stream=True, **own).text)
            attempt("file", lambda: requests.get("file:///etc/passwd", stream=True).text)
            """,
        )
    assert found["gold"] == GOLD.decode()
    assert found["file"] is None
    assert asked == [f"127.0.0.1:{port} /gold"]
    cached = [path for path in worker._settings.download_dir.iterdir() if path.read_bytes() == GOLD]
    assert cached
    assert all(path.stat().st_uid == os.geteuid() for path in cached)


async def test_worker_without_a_sandbox_is_there_when_asked_for_behind_landlock(tmp_path: Path) -> None:
    async with TaskWorker(WorkerSettings(cache_dir=tmp_path / "own", sandbox=False)) as open_worker:
        look = f"""
        attempt("checkout", lambda: os.listdir({str(CHECKOUT)!r}))
        attempt("processes", lambda: len(pids()) > 3)
        import playwright.sync_api
        attempt("playwright", lambda: playwright.sync_api.sync_playwright().start().chromium.name)
        """
        score, found = await run_hostile(open_worker, look)
        assert (score, found) == (1.0, {"checkout": None, "processes": True, "playwright": "chromium"})
