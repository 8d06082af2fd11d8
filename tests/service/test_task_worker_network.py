"""The task worker against guests and file servers that fail: what a real desktop does not do on demand."""

import hashlib
import json
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from osworld_contract.faults import FaultError, FaultReason
from osworld_contract.task import Task, parse_task
from osworld_envpod.tasks.settings import WorkerSettings
from osworld_envpod.tasks.worker import TaskWorker
from task_parts import Handler, a_task, execute, guest_at, http_server, well
from tasks_of import TASKS, task_config

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

DEADLINE_S = 60.0
ABSENT = "http://files.invalid/sheet.xlsx"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def worker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TaskWorker]:
    folder = tmp_path_factory.mktemp("worker")
    mirror = tmp_path_factory.mktemp("mirror")
    (mirror / "files").mkdir()
    (mirror / "files" / "indexed.txt").write_bytes(b"indexed")
    (mirror / hashlib.sha256(b"http://files.invalid/hashed.txt").hexdigest()).write_bytes(b"hashed")
    (mirror / "files" / "image.png").write_bytes(a_png())
    index = {
        "http://files.invalid/indexed.txt": "files/indexed.txt",
        "http://files.invalid/image.png": "files/image.png",
        "http://files.invalid/outside": "../outside",
    }
    (mirror / "index.json").write_text(json.dumps(index))
    settings = WorkerSettings(cache_dir=folder / "own", download_dir=folder / "downloads", mirror=mirror)
    async with TaskWorker(settings) as running:
        yield running


def a_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + b"\xff" * 8 for _ in range(8)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def download(url: str) -> dict[str, object]:
    return {"type": "download", "parameters": {"files": [{"url": url, "path": "/home/user/file"}]}}


async def evaluate_fault(worker: TaskWorker, task: Task, port: int, deadline_s: float = DEADLINE_S) -> FaultError:
    with pytest.raises(FaultError) as caught:
        await worker.evaluate(task, guest_at(port), ["DONE"], deadline_s)
    return caught.value


async def setup_fault(worker: TaskWorker, task: Task, port: int) -> FaultError:
    with pytest.raises(FaultError) as caught:
        await worker.setup(task, guest_at(port), DEADLINE_S)
    return caught.value


def drop(handler: Handler) -> bool:
    if handler.path != "/execute":
        return False
    handler.close_connection = True
    return True


def break_(handler: Handler) -> bool:
    if handler.path == "/execute":
        handler.answer(500, {"status": "error", "message": "Cannot allocate memory"})
    return handler.path == "/execute"


def unfinished(handler: Handler) -> bool:
    if handler.path == "/execute":
        handler.answer(200, {"output": "yes\n"}, promise=100)
    return handler.path == "/execute"


@pytest.mark.parametrize(
    ("misbehave", "reason"),
    [
        (drop, FaultReason.GUEST_UNREACHABLE),
        (break_, FaultReason.EVALUATE_FAILED),
        (unfinished, FaultReason.GUEST_UNREACHABLE),
    ],
)
async def test_broken_guest_is_never_a_zero(
    worker: TaskWorker, misbehave: Callable[[Handler], bool], reason: FaultReason
) -> None:
    with http_server(misbehave) as port:
        assert (await evaluate_fault(worker, a_task(), port)).fault.reason is reason


async def test_getter_that_hides_a_broken_guest_is_seen_through(worker: TaskWorker) -> None:
    def no_files(handler: Handler) -> bool:
        if handler.path == "/file":
            handler.answer(500, {"error": "Input/output error"})
        elif handler.path == "/execute":
            handler.answer(200, {"status": "success", "output": "Linux\n", "error": "", "returncode": 0})
        return handler.path in {"/file", "/execute"}

    task = a_task(result={"type": "default_search_engine"}, expected={"type": "rule", "rules": {"expected": "Google"}})
    with http_server(no_files) as port:
        assert (await evaluate_fault(worker, task, port)).fault.reason is FaultReason.EVALUATE_FAILED


async def test_guest_that_does_not_answer_is_a_fault_inside_the_deadline(worker: TaskWorker) -> None:
    deadline_s = 5.0

    def hang(handler: Handler) -> bool:
        if handler.path == "/execute":
            time.sleep(deadline_s + 1)
        return False

    with http_server(hang) as port:
        began_s = time.monotonic()
        fault = (await evaluate_fault(worker, a_task(), port, deadline_s)).fault
        assert time.monotonic() - began_s <= deadline_s
    assert fault.reason in {FaultReason.GUEST_TIMEOUT, FaultReason.EVALUATE_TIMEOUT}


async def test_guest_that_is_not_there_is_named_at_once(worker: TaskWorker) -> None:
    with http_server(well) as port:
        pass
    began_s = time.monotonic()
    assert (await setup_fault(worker, a_task(), port)).fault.reason is FaultReason.GUEST_UNREACHABLE
    assert (await evaluate_fault(worker, a_task(), port)).fault.reason is FaultReason.GUEST_UNREACHABLE
    assert time.monotonic() - began_s < 10


async def test_upload_that_the_guest_refuses_is_a_setup_fault(worker: TaskWorker) -> None:
    def full(handler: Handler) -> bool:
        if handler.path == "/setup/upload":
            handler.answer(500, {"error": "No space left on device"})
        return handler.path == "/setup/upload"

    with http_server(full) as port:
        fault = (await setup_fault(worker, a_task(download("http://files.invalid/hashed.txt")), port)).fault
    assert fault.reason is FaultReason.SETUP_FAILED


@pytest.mark.parametrize("name", ["indexed", "hashed"])
async def test_download_comes_from_the_mirror(worker: TaskWorker, name: str) -> None:
    uploads: list[bytes] = []

    def keep(handler: Handler) -> bool:
        if handler.path == "/setup/upload":
            uploads.append(handler.body)
        return False

    with http_server(keep) as port:
        await worker.setup(a_task(download(f"http://files.invalid/{name}.txt")), guest_at(port), DEADLINE_S)
    assert len(uploads) == 1
    assert name.encode() in uploads[0]


@pytest.mark.parametrize("url", [ABSENT, "http://files.invalid/outside"])
async def test_download_that_cannot_be_had_is_a_named_fault(worker: TaskWorker, url: str) -> None:
    cloud_file = {"type": "cloud_file", "path": url, "dest": "gold.xlsx"}
    with http_server(well) as port:
        faults = (
            await setup_fault(worker, a_task(download(url)), port),
            await evaluate_fault(worker, a_task(expected=cloud_file), port),
        )
    for error in faults:
        assert (error.fault.reason, error.fault.evidence["url"]) == (FaultReason.DOWNLOAD_FAILED, url)


async def test_only_whole_files_are_kept(worker: TaskWorker) -> None:
    asked: list[str] = []
    is_whole = False
    uploads: list[bytes] = []

    def files(handler: Handler) -> bool:
        asked.append(handler.path)
        handler.answer(200, b"whole and well", promise=0 if is_whole else 10)
        return True

    def keep(handler: Handler) -> bool:
        if handler.path == "/setup/upload":
            uploads.append(handler.body)
        return False

    with http_server(files) as file_port, http_server(keep) as port:
        task = a_task(download(f"http://127.0.0.1:{file_port}/file"))
        assert (await setup_fault(worker, task, port)).fault.reason is FaultReason.DOWNLOAD_FAILED
        is_whole = True
        asked.clear()
        for _ in range(2):
            await worker.setup(task, guest_at(port), DEADLINE_S)
    assert asked == ["/file"]
    assert len(uploads) == 2
    assert all(b"whole and well" in upload for upload in uploads)


async def test_missing_module_is_a_named_fault(worker: TaskWorker) -> None:
    image = {"type": "cloud_file", "path": "http://files.invalid/image.png", "dest": "image.png"}
    rule = {"type": "rule", "rules": {"type": "text", "text": "hello"}}
    with http_server(well) as port:
        task = a_task(func="compare_image_text", result=image, expected=rule)
        fault = (await evaluate_fault(worker, task, port)).fault
    assert (fault.reason, fault.evidence["module"]) == (FaultReason.EVALUATOR_MODULE_MISSING, "easyocr")


async def test_browser_that_cannot_be_reached_is_a_fault(worker: TaskWorker) -> None:
    rule = {"type": "rule", "rules": {"type": "url", "urls": []}}
    task = a_task(func="is_expected_tabs", result={"type": "open_tabs_info"}, expected=rule)
    with http_server(well) as port:
        fault = (await evaluate_fault(worker, task, port)).fault
    assert fault.reason is FaultReason.EVALUATE_FAILED
    assert "browser" in fault.message


async def test_every_real_task_is_known(worker: TaskWorker) -> None:
    names = [f"{path.parent.name}/{path.stem}" for path in TASKS.glob("*/*.json")]
    assert names
    for name in names:
        await worker.check(parse_task(task_config(name)))


async def test_secrets_are_not_in_faults(tmp_path: Path) -> None:
    secret = "sk-do-not-show"

    def tell(handler: Handler) -> bool:
        if handler.path == "/setup/execute":
            handler.answer(500, {"status": "error", "message": f"wrong: {secret}"})
        return handler.path == "/setup/execute"

    settings = WorkerSettings(cache_dir=tmp_path / "own", environment={"OPENAI_API_KEY": secret})
    with http_server(tell) as port:
        async with TaskWorker(settings) as running:
            error = await setup_fault(running, a_task(execute(f"echo {secret}")), port)
    assert error.fault.reason is FaultReason.SETUP_FAILED
    assert secret not in error.fault.model_dump_json()
