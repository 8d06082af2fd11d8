"""Images over a real HTTP server that cuts, stalls and lies: fetched once, resumed, verified, never half there."""

import asyncio
import json
import os
import resource
import signal
import stat
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from image_rig import ImageServer, image_server, qcow2_disk, sha256, status
from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.images import FetchLimits, ImageRequest, fetch_image, parse_address
from waiting import wait_for

DISK = qcow2_disk()
LIMITS = FetchLimits(total_s=60, stall_s=20, attempts=3, retry_pause_s=0)
FETCH = """
import asyncio, sys
from pathlib import Path
from osworld_contract.faults import FaultError
from osworld_envpod.images import FetchLimits, ImageRequest, fetch_image, parse_address
try:
    print(asyncio.run(fetch_image(ImageRequest(parse_address(sys.argv[1]), store=Path(sys.argv[2])))))
except FaultError as error:
    sys.exit(error.fault.reason)
"""


@pytest.fixture
async def server() -> AsyncIterator[ImageServer]:
    async with image_server(DISK) as running:
        yield running


async def _fetch(address: str, store: Path, digest: str | None = None, limits: FetchLimits = LIMITS) -> Path:
    return await fetch_image(ImageRequest(parse_address(address), digest, store, limits))


async def _fault(address: str, store: Path, digest: str | None = None, limits: FetchLimits = LIMITS) -> FaultError:
    with pytest.raises(FaultError) as caught:
        await _fetch(address, store, digest, limits)
    assert list(store.glob("*/image")) == []
    return caught.value


def _part(store: Path) -> Path:
    (folder,) = store.iterdir()
    return folder / "part"


async def test_an_image_is_fetched_once_and_kept_read_only(server: ImageServer, tmp_path: Path) -> None:
    folders = {await _fetch(server.url, tmp_path, sha256(DISK)) for _ in range(2)}
    (folder,) = folders
    assert (folder / "disk.qcow2").read_bytes() == DISK
    assert (folder / "disk.sha256").read_text().split()[0] == sha256(DISK)
    assert stat.S_IMODE((folder / "disk.qcow2").stat().st_mode) == 0o444
    assert sorted(path.name for path in folder.parent.iterdir()) == ["image", "lock"]
    assert len(server.seen) == 1


async def test_a_file_of_this_machine_is_used_where_it_is(tmp_path: Path) -> None:
    disk = tmp_path / "mine.qcow2"
    disk.write_bytes(DISK)
    folder = await _fetch(f"file:{disk}", tmp_path / "store", sha256(DISK))
    assert (folder / "disk.qcow2").resolve() == disk
    assert await _fetch(str(tmp_path), tmp_path / "store") == tmp_path
    disk.write_bytes(qcow2_disk(10))
    fault = (await _refused(str(disk), tmp_path / "other", sha256(DISK))).fault
    assert fault.reason is FaultReason.IMAGE_INVALID
    fault = (await _refused(f"{disk}.gone", tmp_path / "other")).fault
    assert fault.reason is FaultReason.IMAGE_UNAVAILABLE


async def _refused(address: str, store: Path, digest: str | None = None) -> FaultError:
    with pytest.raises(FaultError) as caught:
        await _fetch(address, store, digest)
    return caught.value


async def test_a_connection_that_is_cut_is_resumed(server: ImageServer, tmp_path: Path) -> None:
    server.script = [server.first(1_000_000), status(503)]
    folder = await _fetch(server.url, tmp_path)
    assert (folder / "disk.qcow2").read_bytes() == DISK
    asked = server.seen[-1].headers
    assert asked["Range"].startswith("bytes=") and asked["Range"] != "bytes=0-"
    assert asked["If-Range"] == server.etag


async def test_a_file_that_has_changed_is_begun_anew(server: ImageServer, tmp_path: Path) -> None:
    server.script = [server.first(1_000_000)] + [status(503)] * LIMITS.attempts
    fault = (await _fault(server.url, tmp_path)).fault
    assert (fault.reason, _part(tmp_path).exists()) == (FaultReason.IMAGE_UNAVAILABLE, True)
    server.data, server.etag = qcow2_disk(500_000), '"v2"'
    folder = await _fetch(server.url, tmp_path)
    assert (folder / "disk.qcow2").read_bytes() == server.data
    assert server.seen[-1].headers["If-Range"] == '"v1"'


async def test_without_a_strong_etag_nothing_is_resumed(server: ImageServer, tmp_path: Path) -> None:
    server.etag = 'W/"v1"'
    server.script = [server.first(1_000_000)]
    folder = await _fetch(server.url, tmp_path)
    assert (folder / "disk.qcow2").read_bytes() == DISK
    assert server.ranges == [None, None]


async def test_a_server_that_stalls_is_given_up(server: ImageServer, tmp_path: Path) -> None:
    server.script = [server.first(1_000_000, then_stall=True), *[server.first(0, then_stall=True)] * 9]
    error = await _fault(server.url, tmp_path, limits=FetchLimits(stall_s=0.3, attempts=2, retry_pause_s=0))
    assert error.fault.reason is FaultReason.IMAGE_UNAVAILABLE
    assert "sent nothing for 0.3 s" in error.fault.message


async def test_the_deadline_of_the_whole_ends_a_fetch_that_goes_on(server: ImageServer, tmp_path: Path) -> None:
    server.script = [server.first(1_000_000, then_stall=True)]
    error = await _fault(server.url, tmp_path, limits=FetchLimits(total_s=1, stall_s=60))
    assert "was not there in 1 s" in error.fault.message
    assert (await _fetch(server.url, tmp_path) / "disk.qcow2").read_bytes() == DISK


@pytest.mark.parametrize("code", [401, 403, 404])
async def test_a_refusal_is_final_and_says_whose_it_is(server: ImageServer, tmp_path: Path, code: int) -> None:
    server.script = [status(code)]
    fault = (await _fault(server.url, tmp_path)).fault
    assert (fault.reason, fault.evidence["status"]) == (FaultReason.IMAGE_UNAVAILABLE, code)
    assert len(server.seen) == 1


async def test_a_wrong_hash_leaves_nothing(server: ImageServer, tmp_path: Path) -> None:
    fault = (await _fault(server.url, tmp_path, "0" * 64)).fault
    assert (fault.reason, _part(tmp_path).exists()) == (FaultReason.IMAGE_INVALID, False)
    assert sha256(DISK) in fault.message


async def test_what_is_no_disk_is_refused(server: ImageServer, tmp_path: Path) -> None:
    server.data = b"<html>log in</html>"
    fault = (await _fault(server.url, tmp_path)).fault
    assert (fault.reason, "no qcow2" in fault.message) == (FaultReason.IMAGE_INVALID, True)


async def test_a_length_that_is_not_said_needs_a_hash(server: ImageServer, tmp_path: Path) -> None:
    async def chunked(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(DISK)
        return response

    server.script = [chunked, chunked]
    fault = (await _fault(server.url, tmp_path / "a")).fault
    assert (fault.reason, "OSWORLD_IMAGE_SHA256" in fault.message) == (FaultReason.IMAGE_UNAVAILABLE, True)
    folder = await _fetch(server.url, tmp_path / "b", sha256(DISK))
    assert (folder / "disk.qcow2").read_bytes() == DISK


async def test_an_image_that_cannot_fit_is_refused_before_a_byte_of_it(server: ImageServer, tmp_path: Path) -> None:
    async def huge(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(1 << 60)})
        await response.prepare(request)
        return response

    server.script = [huge, huge]
    fault = (await _fault(server.url, tmp_path / "a", limits=FetchLimits(disk_max_bytes=1 << 61))).fault
    assert fault.reason is FaultReason.DISK_FULL
    fault = (await _fault(server.url, tmp_path / "b")).fault
    assert fault.reason is FaultReason.IMAGE_INVALID


async def _fetcher(url: str, store: Path, file_max_bytes: int | None = None) -> asyncio.subprocess.Process:
    def limit() -> None:
        if file_max_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_max_bytes, file_max_bytes))

    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", FETCH, url, str(store), stdout=PIPE, stderr=PIPE, preexec_fn=limit
    )


async def test_a_disk_that_fills_up_is_named_and_half_a_file_is_not_taken(server: ImageServer, tmp_path: Path) -> None:
    process = await _fetcher(server.url, tmp_path, 1_500_000)
    _, errors = await process.communicate()
    assert (process.returncode, errors.decode().split()[-1:]) == (1, ["disk_full"])
    assert list(tmp_path.glob("*/image")) == []
    assert (await _fetch(server.url, tmp_path) / "disk.qcow2").read_bytes() == DISK
    assert server.ranges == [None, "bytes=1500000-"]


async def test_two_processes_fetch_an_image_once(server: ImageServer, tmp_path: Path) -> None:
    may_go_on = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await may_go_on.wait()
        return await server.whole(request)

    server.script = [slow]
    processes = [await _fetcher(server.url, tmp_path) for _ in range(2)]
    await wait_for(lambda: server.seen, 30, "the first request")
    may_go_on.set()
    outputs = [(await process.communicate())[0].decode().strip() for process in processes]
    assert len(server.seen) == 1
    assert outputs[0] == outputs[1]
    assert (Path(outputs[0]) / "disk.qcow2").read_bytes() == DISK


async def test_a_fetcher_that_is_killed_leaves_its_lock_and_its_part(server: ImageServer, tmp_path: Path) -> None:
    server.script = [server.first(2_500_000, then_stall=True)]
    process = await _fetcher(server.url, tmp_path)
    await wait_for(lambda: [path for path in tmp_path.glob("*/part") if path.stat().st_size], 30, "a part")
    os.kill(process.pid, signal.SIGKILL)
    await process.communicate()
    kept = _part(tmp_path).stat().st_size
    assert json.loads(_part(tmp_path).with_suffix(".json").read_text())["total_bytes"] == len(DISK)
    assert (await _fetch(server.url, tmp_path) / "disk.qcow2").read_bytes() == DISK
    assert server.ranges == [None, f"bytes={kept}-"]
