"""The life of a real virtual machine: forked, reverted, paused, broken, stopped. Under emulation, on our own image."""

import asyncio
import io
import signal
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.desktops.base import DesktopState
from osworld_envpod.desktops.qemu.files import sha256
from osworld_envpod.desktops.qemu.template import PARTS
from vm_fixtures import (
    COMMAND_DEADLINE_S,
    TEST_TIMEOUT_S,
    VirtualMachine,
    listening_ports,
    qemu_processes,
    virtual_machine,
)
from waiting import wait_for

pytestmark = pytest.mark.timeout(TEST_TIMEOUT_S)
"""The first test boots the template; every other one forks it."""

CLOCK_TOLERANCE_S = 1.0
LOST_DEADLINE_S = 10.0


async def test_a_fork_shows_a_desktop_with_real_root(machine: VirtualMachine) -> None:
    image = Image.open(io.BytesIO(await machine.guest.screenshot(COMMAND_DEADLINE_S)))
    assert image.size == (1920, 1080)
    assert len(image.convert("RGB").getcolors(1 << 24) or []) > 100
    assert await machine.output("echo password | sudo -S -p '' id -u") == "0\n"
    assert await machine.output("id -un; echo $HOME; pwd") == "user\n/home/user\n/home/user\n"


async def test_a_revert_leaves_nothing_in_memory_on_disk_or_running(machine: VirtualMachine) -> None:
    before = await machine.guest.agent(COMMAND_DEADLINE_S)
    await machine.output(
        "echo marker > ~/Desktop/marker; echo marker > /tmp/marker; echo marker > /dev/shm/marker;"
        "echo password | sudo -S -p '' sh -c 'echo marker > /etc/marker; sync';"
        "setsid -f sleep 9999 > /dev/null 2>&1; echo -n marker | setsid -f xclip -selection clipboard > /dev/null 2>&1"
    )
    # A fresh screen must differ from the one before: the marker is on it too, as a window of one colour.
    await machine.output("setsid -f xterm -bg red -fullscreen > /dev/null 2>&1")
    dirty = await wait_for(lambda: _red(machine), COMMAND_DEADLINE_S, "a red window")
    await machine.revert()
    found = await machine.run(
        "ls ~/Desktop/marker /tmp/marker /dev/shm/marker /etc/marker 2>/dev/null; pgrep -a 'sleep|xterm';"
        "timeout 5 xclip -selection clipboard -o 2>/dev/null"
    )
    assert found.output == ""
    assert dirty and not await _red(machine)
    assert (await machine.guest.agent(COMMAND_DEADLINE_S)).boot_id != before.boot_id
    assert len(qemu_processes()) == 1


async def _red(machine: VirtualMachine) -> bool:
    shot = Image.open(io.BytesIO(await machine.guest.screenshot(COMMAND_DEADLINE_S))).convert("RGB")
    return shot.getpixel((shot.width // 4, shot.height // 4)) == (255, 0, 0)


def _state(machine: VirtualMachine) -> DesktopState:
    return machine.desktop.state


async def test_forks_have_their_own_entropy_and_the_hosts_time(machine: VirtualMachine) -> None:
    bytes_seen, ports_seen = [], []
    for _ in range(2):
        bytes_seen.append(await machine.output("head -c 32 /dev/urandom | od -An -tx1"))
        ports_seen.append(machine.desktop.addresses.server_port)
        asked = time.time()
        shown = (await machine.guest.agent(COMMAND_DEADLINE_S)).unix_time_s
        assert asked - CLOCK_TOLERANCE_S <= shown <= time.time() + CLOCK_TOLERANCE_S
        await machine.revert()
    assert bytes_seen[0] != bytes_seen[1]


async def test_forks_write_nothing_into_their_template(machine: VirtualMachine) -> None:
    template = machine.desktop.template
    before = {name: await asyncio.to_thread(sha256, template.part(name)) for name in PARTS}
    await machine.output("head -c 50000000 /dev/zero > /dev/shm/fill; head -c 50000000 /dev/zero > ~/fill; sync")
    await machine.revert()
    await machine.output("head -c 50000000 /dev/zero > ~/fill; sync")
    assert {name: await asyncio.to_thread(sha256, template.part(name)) for name in PARTS} == before


async def test_a_paused_machine_stands_still_and_goes_on(machine: VirtualMachine) -> None:
    await machine.desktop.pause(COMMAND_DEADLINE_S)
    assert _state(machine) is DesktopState.PAUSED
    with pytest.raises(FaultError) as caught:
        await machine.guest.agent(2)
    assert caught.value.fault.reason is FaultReason.GUEST_TIMEOUT
    await machine.desktop.pause(COMMAND_DEADLINE_S)
    await machine.desktop.resume(COMMAND_DEADLINE_S)
    assert _state(machine) is DesktopState.READY
    assert (await machine.guest.agent(COMMAND_DEADLINE_S)).ready


async def test_a_clock_that_pauses_left_behind_is_stepped_and_nothing_else_changes(machine: VirtualMachine) -> None:
    before = await machine.guest.agent(COMMAND_DEADLINE_S)
    running = "pgrep -d ' ' 'X|openbox|python'; cat /proc/sys/kernel/random/boot_id"
    programs = await machine.output(running)
    for back_s, left_s in ((30, 30), (40, 0)):  # the second one adds to the first
        await machine.output(f"echo password | sudo -S -p '' date -s '-{back_s} seconds'")
        await machine.desktop.correct_clock(COMMAND_DEADLINE_S)
        asked = time.time()
        now = await machine.guest.agent(COMMAND_DEADLINE_S)
        assert asked - left_s - 2 * CLOCK_TOLERANCE_S <= now.unix_time_s <= time.time() - left_s + CLOCK_TOLERANCE_S
        assert (now.boot_id, await machine.output(running)) == (before.boot_id, programs)


async def test_a_killed_machine_is_seen_and_the_next_revert_is_clean(machine: VirtualMachine) -> None:
    await machine.output("touch ~/marker")
    (process,) = qemu_processes()
    process.send_signal(signal.SIGKILL)
    await wait_for(lambda: machine.desktop.state is DesktopState.FAILED, LOST_DEADLINE_S, "FAILED")
    with pytest.raises(RuntimeError, match="has no addresses"):
        _ = machine.desktop.addresses
    with pytest.raises(RuntimeError, match="cannot become"):
        await machine.desktop.pause(COMMAND_DEADLINE_S)
    await machine.revert()
    assert (await machine.run("test -e ~/marker")).returncode == 1


async def test_a_machine_that_hangs_is_replaced(machine: VirtualMachine) -> None:
    (process,) = qemu_processes()
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(FaultError) as caught:
        await machine.desktop.pause(2)
    assert caught.value.fault.reason is FaultReason.DESKTOP_LOST
    assert _state(machine) is DesktopState.FAILED
    await machine.revert()
    assert not psutil.pid_exists(process.pid)
    assert _state(machine) is DesktopState.READY


async def test_a_stop_leaves_no_process_port_or_file(tmp_path: Path) -> None:
    async with virtual_machine(tmp_path, spares=1) as machine:
        await machine.revert()
        await machine.revert()
        # Not its process: QEMU is there before it listens.
        await wait_for(lambda: len(listening_ports()) == 8, 60, "the ports of a spare")
        assert len(qemu_processes()) == 2
        folders = [path for path in next(tmp_path.glob("x-*")).iterdir() if path.is_dir()]
        assert len(folders) == 2
    assert (qemu_processes(), listening_ports(), list(tmp_path.iterdir())) == ([], set(), [])
    with pytest.raises(RuntimeError, match="cannot be reverted"):
        await machine.desktop.revert(1)
