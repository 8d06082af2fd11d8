"""The client of a guest with OSWorld's server, against one that answers as it is told."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.desktops.base import GuestAddresses
from osworld_envpod.osworld_guest import READINGS_MAX, SLOW_S, OsworldGuestClient

AHEAD_S = 3600.0


@asynccontextmanager
async def _guest(
    folder: Path, result: Callable[[list[str]], dict[str, object]], slow: int = 0
) -> AsyncIterator[OsworldGuestClient]:
    """Give a client of a server whose ``/execute`` has `result` of its command; the first `slow` replies come late."""
    left = slow

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = re.findall(rb"content-length: (\d+)", head.lower())
        asked = json.loads(await reader.readexactly(int(length)))
        body = json.dumps({"output": "", "error": "", "returncode": 0} | result(asked["command"])).encode()
        if left:
            left -= 1
            await asyncio.sleep(2 * SLOW_S)
        writer.write(f"HTTP/1.1 200 X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, folder / "guest")
    addresses = GuestAddresses("", 0, 0, 0, 0, server_socket=folder / "guest", has_agent=False)
    async with server, OsworldGuestClient(addresses) as client:
        yield client


@pytest.mark.parametrize(("slow", "readings_min"), [(0, 1), (1, 2), (9, READINGS_MAX)])
async def test_a_clock_that_was_read_slowly_is_read_again(tmp_path: Path, slow: int, readings_min: int) -> None:
    """By half of what the answer took a fork's clock would be set wrong: it has just woken, and is slow."""
    readings = []

    def date(_command: list[str]) -> dict[str, object]:
        readings.append(time.time() + AHEAD_S)
        return {"output": f"{readings[-1]:.9f}\n"}

    async with _guest(tmp_path, date, slow) as guest:
        reading = await guest.clock(30)
    assert readings_min <= len(readings) <= READINGS_MAX
    assert abs(reading.ahead_s - AHEAD_S) <= reading.took_s
    assert 0 < reading.least_drift_s <= AHEAD_S


async def test_a_date_that_is_no_time_is_a_fault(tmp_path: Path) -> None:
    async with _guest(tmp_path, lambda _: {"error": "date: not found"}) as guest:
        with pytest.raises(FaultError, match="date: not found") as caught:
            await guest.clock(30)
    assert caught.value.fault.reason is FaultReason.ACTION_FAILED


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"error": "sudo: 1 incorrect password attempt", "returncode": 1}, "incorrect password"),
        ({"output": "no list"}, "no list"),
        ({"returncode": 127}, "no message"),
    ],
)
async def test_a_fork_that_root_cannot_refresh_is_unclean(tmp_path: Path, result: dict[str, object], said: str) -> None:
    async with _guest(tmp_path, lambda _: result) as guest:
        with pytest.raises(FaultError, match=said) as caught:
            await guest.refresh("password", "mark", 0.0, 30)
    assert caught.value.fault.reason is FaultReason.DESKTOP_UNCLEAN


async def test_password_and_mark_are_data_and_no_part_of_a_command(tmp_path: Path) -> None:
    commands = []

    def note(command: list[str]) -> dict[str, object]:
        commands.append(command)
        return {"output": '["/run/osworld-env/other"]'}

    async with _guest(tmp_path, note) as guest:
        assert await guest.refresh("pa'ss $(word)", "mark", -2.5, 30) == ["/run/osworld-env/other"]
    [(shell, _, line, password, *program, asked)] = commands
    assert (shell, password, program[:2]) == ("/bin/sh", "pa'ss $(word)", ["python3", "-c"])
    assert password not in line
    assert (json.loads(asked)["mark"], json.loads(asked)["ahead_s"]) == ("mark", -2.5)
