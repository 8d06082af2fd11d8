"""The env server's client of the guest wire, against guests that are gone, silent, or answer nonsense."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from osworld_contract.actions import Call
from osworld_contract.faults import FaultError, FaultReason
from osworld_contract.fork import AfterFork
from osworld_envpod.desktops.base import GuestAddresses
from osworld_envpod.guest import LATE_S, AgentInfo, GuestClient, ScreenSize

Use = Callable[[GuestClient], Awaitable[object]]

USES: list[Use] = [
    lambda guest: guest.agent(0.5),
    lambda guest: guest.screenshot(0.5),
    lambda guest: guest.run_calls([Call(name="click")], 0.5),
    lambda guest: guest.execute("true", 0.5),
]


@asynccontextmanager
async def _guest(folder: Path, reply: bytes | None) -> AsyncIterator[GuestClient]:
    """Give a client of a server that answers `reply` to everything and closes; None: it never answers."""
    path = folder / "guest"

    connections: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        if reply is None:
            await reader.read()
        else:
            writer.write(reply)
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, path)
    async with server, GuestClient(GuestAddresses("", 0, 0, 0, 0, server_socket=path)) as client:
        yield client
        for connection in connections:
            connection.close()
            await asyncio.wait([asyncio.ensure_future(connection.wait_closed())], timeout=1)


def _reply(status: int, body: bytes) -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


async def test_a_time_that_came_late_to_a_fork_is_sent_anew(tmp_path: Path) -> None:
    """A guest that has just woken on a full machine: its clock was behind by what it took, and the fork not clean."""
    came: list[AfterFork] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = re.findall(rb"content-length: (\d+)", head.lower())
        came.append(AfterFork.model_validate_json(await reader.readexactly(int(length))))
        if len(came) == 1:
            await asyncio.sleep(2 * LATE_S)
        info = AgentInfo(
            version=1, boot_id=came[-1].boot_id, unix_time_s=0, screen=ScreenSize(width=1, height=1), ready=True
        )
        writer.write(_reply(200, info.model_dump_json().encode()))
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, tmp_path / "guest")
    async with server, GuestClient(GuestAddresses("", 0, 0, 0, 0, server_socket=tmp_path / "guest")) as guest:
        await guest.after_fork("b" * 32, 30)
    late, again = came
    assert late.boot_id == again.boot_id
    assert again.unix_time_s - late.unix_time_s > LATE_S
    assert late.entropy_b64 != again.entropy_b64


async def _reason(use: Use, guest: GuestClient) -> FaultReason:
    with pytest.raises(FaultError) as caught:
        await use(guest)
    return caught.value.fault.reason


@pytest.mark.parametrize("use", USES)
async def test_a_guest_that_never_answers_is_a_time_out(tmp_path: Path, use: Use) -> None:
    async with _guest(tmp_path, None) as guest:
        assert await _reason(use, guest) is FaultReason.GUEST_TIMEOUT


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"nonsense\r\n\r\n"])
async def test_a_dropped_connection_is_unreachable(tmp_path: Path, use: Use, reply: bytes) -> None:
    async with _guest(tmp_path, reply) as guest:
        assert await _reason(use, guest) is FaultReason.GUEST_UNREACHABLE


@pytest.mark.parametrize("use", USES)
async def test_no_guest_is_unreachable(tmp_path: Path, use: Use) -> None:
    for addresses in (
        GuestAddresses("", 0, 0, 0, 0, server_socket=tmp_path / "nobody"),
        GuestAddresses("127.0.0.1", 1, 0, 0, 0),
    ):
        async with GuestClient(addresses) as guest:
            assert await _reason(use, guest) is FaultReason.GUEST_UNREACHABLE


@pytest.mark.parametrize("reply", [_reply(200, b"not an image"), _reply(500, b"{}"), _reply(200, b"")])
async def test_a_screenshot_that_is_no_image_is_missing(tmp_path: Path, reply: bytes) -> None:
    async with _guest(tmp_path, reply) as guest:
        assert await _reason(USES[1], guest) is FaultReason.SCREENSHOT_MISSING


@pytest.mark.parametrize("image", [b"\x89PNG\r\n\x1a\nrest", b"\xff\xd8\xffrest"])
async def test_image_bytes_come_through_unchanged(tmp_path: Path, image: bytes) -> None:
    async with _guest(tmp_path, _reply(200, image)) as guest:
        assert await guest.screenshot(1) == image


@pytest.mark.parametrize(("status", "reason"), [(422, FaultReason.ACTION_REFUSED), (500, FaultReason.ACTION_FAILED)])
async def test_refused_and_failed_calls_are_told_apart(tmp_path: Path, status: int, reason: FaultReason) -> None:
    async with _guest(tmp_path, _reply(status, b'{"message": "what happened"}')) as guest:
        with pytest.raises(FaultError) as caught:
            await USES[2](guest)
    assert caught.value.fault.reason is reason
    assert caught.value.fault.message == "what happened"


@pytest.mark.parametrize("use", [USES[0], USES[3]])
async def test_an_answer_that_cannot_be_read_is_unreachable(tmp_path: Path, use: Use) -> None:
    async with _guest(tmp_path, _reply(200, b'{"other": 1}')) as guest:
        assert await _reason(use, guest) is FaultReason.GUEST_UNREACHABLE
