"""A whole disk, as OSWorld publishes its image: booted by UEFI and a loader, with OSWorld's paths and no agent of ours.

The first test boots it into a template; the others fork that one. Nothing here is OSWorld's own image.
"""

import io
import time
import uuid
from pathlib import Path

import pytest
from PIL import Image

from osworld_contract.actions import Call
from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.desktops.base import GuestAddresses, TaskState
from osworld_envpod.desktops.qemu.guests import OsworldGuest
from osworld_envpod.desktops.qemu.image import find_image
from osworld_envpod.guest import GuestClient
from osworld_envpod.osworld_guest import guest_of
from vm_fixtures import COMMAND_DEADLINE_S, TEST_TIMEOUT_S, VirtualMachine, disk_settings, machine_of

pytestmark = pytest.mark.timeout(TEST_TIMEOUT_S)
CLOCK_TOLERANCE_S = 1.0
SUDO_S = 10.0
"""The time is on its way while ``sudo`` starts: 2 s under emulation at load 8."""

MARKS = "ls /run/osworld-env /var/lib/osworld-env"


async def test_a_fork_of_a_whole_disk_is_one_of_its_own_and_shows_its_screen(disk_machine: VirtualMachine) -> None:
    assert (disk_machine.desktop.facts.proof, disk_machine.desktop.facts.can_fork) == ("marks", True)
    async with GuestClient(disk_machine.desktop.addresses) as agent:
        with pytest.raises(FaultError, match="answered 404"):
            await agent.agent(COMMAND_DEADLINE_S)
    assert (await disk_machine.run("test -e /run/osworld-root")).returncode == 1, "root's part is done by sudo alone"
    shot = Image.open(io.BytesIO(await disk_machine.guest.screenshot(COMMAND_DEADLINE_S))).convert("RGB")
    assert shot.size == (1920, 1080) and len(shot.getcolors(1 << 24) or []) > 100
    await disk_machine.guest.run_calls([Call(name="moveTo", args=[300, 400])], COMMAND_DEADLINE_S)
    assert (await disk_machine.output("xdotool getmouselocation")).startswith("x:300 y:400 ")


async def test_a_revert_of_a_whole_disk_leaves_nothing_and_gives_time_and_entropy(disk_machine: VirtualMachine) -> None:
    seen = []
    for _ in range(2):
        asked = time.time()
        shown, random = (await disk_machine.output("date +%s.%N; head -c 32 /dev/urandom | base64 -w 0")).split()
        assert asked - CLOCK_TOLERANCE_S <= float(shown) <= time.time() + CLOCK_TOLERANCE_S
        seen.append((random, await disk_machine.output(MARKS)))
        assert (await disk_machine.run("ls ~/marker /dev/shm/marker 2>/dev/null; pgrep -a sleep")).output == ""
        await disk_machine.output(
            "echo marker | tee ~/marker /dev/shm/marker; sync; setsid -f sleep 9999 > /dev/null 2>&1; pgrep sleep"
        )
        await disk_machine.revert()
    (first, first_marks), (second, second_marks) = seen
    assert first != second
    assert first_marks != second_marks and first_marks.count("\n") == second_marks.count("\n") == 5


async def test_a_fork_that_was_used_and_one_that_root_cannot_refresh_are_refused(disk_machine: VirtualMachine) -> None:
    addresses = disk_machine.desktop.addresses
    for password, words in (
        ("password", "the mark of another fork: /run/osworld-env/"),
        ("wrong", "could not be set: "),
    ):
        with pytest.raises(FaultError, match=words) as caught:
            await OsworldGuest(password, rest_deadline_s=0).make_own(addresses, uuid.uuid4().hex, COMMAND_DEADLINE_S)
        assert caught.value.fault.reason is FaultReason.DESKTOP_UNCLEAN


async def test_a_clock_that_pauses_left_behind_is_stepped_through_sudo(disk_machine: VirtualMachine) -> None:
    await disk_machine.output("echo password | sudo -S -p '' date -s '-1 day'")
    await disk_machine.desktop.correct_clock(COMMAND_DEADLINE_S)
    asked = time.time()
    shown = float(await disk_machine.output("date +%s.%N"))
    assert asked - SUDO_S <= shown <= time.time() + CLOCK_TOLERANCE_S


async def test_our_disk_without_its_kernel_is_a_fault_and_not_a_long_boot(tmp_path: Path) -> None:
    folder = tmp_path / "image"
    folder.mkdir()
    for name in ("disk.qcow2", "disk.sha256"):
        (folder / name).symlink_to((await find_image(None)).disk.with_name(name))
    with pytest.raises(FaultError, match="wants its vmlinuz") as caught:
        async with machine_of(disk_settings(folder, tmp_path)):
            pass
    assert caught.value.fault.reason is FaultReason.IMAGE_INVALID


async def test_a_task_of_a_whole_disk_is_set_up_once_and_forked_from_then_on(disk_machine: VirtualMachine) -> None:
    setups = []

    async def set_up(addresses: GuestAddresses, _deadline_s: float) -> str:
        setups.append(addresses)
        async with guest_of(addresses) as guest:
            result = await guest.execute("echo marker | tee ~/marker /dev/shm/marker", COMMAND_DEADLINE_S, shell=True)
        assert result.returncode == 0, result
        return ""

    assert await disk_machine.revert_to_task("task", set_up) is TaskState.SET_UP
    await disk_machine.output("echo episode > ~/episode; rm ~/marker")
    assert await disk_machine.revert_to_task("task", set_up) is TaskState.FORKED
    assert await disk_machine.output("cat ~/marker /dev/shm/marker; ls ~/episode 2>&1 | wc -l") == "marker\nmarker\n1\n"
    assert len(setups) == 1
    assert (await disk_machine.output(MARKS)).count("\n") == 7, "of the fork that was set up, and its own"
    await disk_machine.revert()
    assert (await disk_machine.run("ls ~/marker /dev/shm/marker 2>/dev/null")).output == ""
