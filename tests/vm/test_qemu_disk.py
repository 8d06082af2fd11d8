"""A small disk: full before a fork, full while the guest writes, full in an episode, too small for a task snapshot.

Also one that is full while a task snapshot is made. `test_qemu_template_faults` has templates.
"""

import asyncio
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import psutil
import pytest

from desktop_probe import desktop_processes
from osworld_contract.faults import FaultError, FaultReason
from osworld_contract.places import run_dir, vm_template_dir
from osworld_env.ports import free_port
from osworld_envpod.desktops.base import DesktopState, GuestAddresses, TaskState
from osworld_envpod.desktops.qemu.argv import QEMU
from osworld_envpod.desktops.qemu.settings import OWN_MEMORY_MIB
from osworld_envpod.desktops.qemu.snapshots import BUILD_PREFIX
from osworld_envpod.guest import GuestClient
from process_looks import runs
from server_process import ServerProcess, clean_environment, post
from small_disk import fill, give_room, small_disk
from task_parts import a_task, execute, shell_result
from vm_fixtures import (
    COMMAND_DEADLINE_S,
    START_DEADLINE_S,
    TEST_TIMEOUT_S,
    listening_ports,
    qemu_processes,
    virtual_machine,
)
from waiting import wait_until

pytestmark = pytest.mark.timeout(TEST_TIMEOUT_S)

SIZE_BYTES = 96 << 20
SNAPSHOT_BYTES = 1536 << 20
"""Holds a machine's RAM, all of it, and what its guest writes."""

DISK_ROOM_BYTES = 256 << 20
END_DEADLINE_S = 360

WRITER = (
    'setsid sh -c \'X=9999; until [ "$X" -lt 500 ]; do sleep 0.2; eval "$(xdotool getmouselocation --shell)"; done; '
    "dd if=/dev/urandom of=$HOME/big bs=1M count=300 oflag=dsync' >/dev/null 2>&1 </dev/null &"
)
"""Writes more than the disk takes, from when the agent moves the pointer to the left on: the reset is over by then."""

WRITES, WRITES_NOT = (
    {"task_config": a_task(*steps, result=shell_result("test -e ~/big || echo yes")).as_config()}
    for steps in ([execute(WRITER)], [])
)
STEPS_MAX = 30
END_S = 60.0

SCRIPT = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from osworld_contract.faults import FaultError
    from osworld_envpod.desktops.qemu import QemuDesktop, QemuSettings
    from osworld_envpod.guest import GuestClient
    from waiting import wait_for

    small, templates = map(Path, sys.argv[1:3])

    async def setup(addresses, deadline_s):
        raise AssertionError("there is no room for a snapshot")

    async def fault_of(call):
        try:
            await call
        except FaultError as error:
            return error.fault.reason.value
        return "none"

    async def write(desktop):
        async with GuestClient(desktop.addresses) as guest:
            await guest.execute("head -c 300000000 /dev/urandom > ~/fill; sync", 60.0, shell=True)

    async def check(desktop):
        async with GuestClient(desktop.addresses) as guest:
            print("left:", (await guest.execute("ls ~/fill 2>/dev/null", 60.0, shell=True)).output)

    def fill():
        with (small / "fill").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    async def main():
        settings = QemuSettings(run_dir=small / "run", template_dir=templates, snapshot_dir=small / "s", spares=0)
        desktop = QemuDesktop(settings)
        try:
            fill()
            print("start:", await fault_of(desktop.start(120.0)))
            (small / "fill").unlink()
            await desktop.revert(120.0)
            print("snapshot:", (await desktop.revert_to_task("a", setup, 120.0)).value)
            print("write:", await fault_of(write(desktop)))
            await wait_for(lambda: desktop.state.value == "failed", 30, "failed")
            print("lost to:", desktop.lost_to)
            await desktop.revert(120.0)
            print("lost to:", desktop.lost_to)
            await check(desktop)
        finally:
            await desktop.stop(60.0)
        print("files:", [path.name for path in (small / "run").iterdir()])

    asyncio.run(main())
""")


def _small_disk(folder: Path) -> list[str]:
    """Return the command that starts another one where `folder` is a small disk."""
    return ["bwrap", "--die-with-parent", "--dev-bind", "/", "/", "--size", str(SIZE_BYTES), "--tmpfs", str(folder)]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    result = subprocess.run(
        [*_small_disk(small), sys.executable, "-c", SCRIPT, str(small), str(vm_template_dir())],
        capture_output=True, text=True, timeout=END_DEADLINE_S, check=False,
        env=clean_environment(PYTHONPATH=str(Path(__file__).parents[1])),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines() == [
        "start: disk_full",
        "snapshot: none",
        "write: guest_unreachable",
        "lost to: disk_full",
        "lost to: None",
        "left: ",
        "files: []",
    ]


def test_an_episode_whose_disk_fills_ends_with_disk_full_and_the_next_is_clean(tmp_path: Path) -> None:
    """QEMU ends in the middle of a step: to its caller that looks like a guest that is gone."""
    run_dir().mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings = {"OSWORLD_TASK_SNAPSHOTS": "0", "OSWORLD_SPARE_DESKTOPS": "0", "OSWORLD_MAX_STEPS": str(STEPS_MAX)}
    environment = clean_environment(PROVIDER="qemu", OSWORLD_PORT=str(port), **settings)
    server = ServerProcess("osworld_envpod", tmp_path, environment, port)
    server.wrap(*_small_disk(run_dir()))
    with server:
        server.wait_ready(deadline_s=START_DEADLINE_S)
        reset = post(server, "/env/reset", WRITES)
        assert reset.status_code == httpx.codes.OK, reset.text[:1000]
        fault = _fault_of_steps(server)
        assert (fault["kind"], fault["reason"], fault["masked"]) == ("infra", "disk_full", True), fault
        evaluated = post(server, "/env/evaluate")
        assert (evaluated.status_code, evaluated.json()["fault"]) == (httpx.codes.SERVICE_UNAVAILABLE, fault)
        metrics = httpx.get(server.url + "/metrics", timeout=10).text
        # In a step, or where what was under way is written when the guest is paused after it, between two.
        assert re.findall(r'^osworld_faults_total\{kind="infra",operation="(?:step|none)",reason="(\w+)"\} (\S+)$',
                          metrics, re.MULTILINE) == [("disk_full", "1.0")]  # fmt: skip
        reset = post(server, "/env/reset", WRITES_NOT)
        assert reset.status_code == httpx.codes.OK, reset.text[:1000]
        assert post(server, "/env/evaluate").json() == 1.0, "nothing that was written is left"
        machines = desktop_processes(server.pid, QEMU)
        assert len(machines) == 1
        (inside,) = psutil.Process(server.pid).children()
        inside.terminate()
        wait_until(lambda: not any(runs(machine) for machine in machines), END_S, "no QEMU")


def _fault_of_steps(server: ServerProcess) -> dict[str, object]:
    """Return the fault of the first step that has one."""
    headers = {"X-Osworld-Client": "v2"}
    for action in ["click(start_box='(100,500)')", *["wait()"] * STEPS_MAX]:
        reply = post(server, "/env/step", {"prediction": f"Thought: go on.\nAction: {action}"}, **headers)
        if reply.status_code != httpx.codes.OK:
            fault: dict[str, object] = reply.json()["fault"]
            assert reply.status_code == httpx.codes.INSUFFICIENT_STORAGE, fault
            return fault
    raise AssertionError("no step had a fault")


@pytest.mark.parametrize("phase", ["setup", "save"])
async def test_a_disk_that_fills_while_a_snapshot_is_made_is_named_and_the_next_reset_is_plain(
    tmp_path: Path, phase: str
) -> None:
    """The machine's RAM is a file on that disk: memory that it touches first has no place, nor has its state."""
    with small_disk(SNAPSHOT_BYTES) as disk:
        snapshots = disk / "s"
        is_to_fill = True

        async def setup(addresses: GuestAddresses, deadline_s: float) -> str:
            if not is_to_fill:
                return ""
            (folder,) = snapshots.glob(f"{BUILD_PREFIX}*")
            if phase == "save":
                give_room(folder / "ram", OWN_MEMORY_MIB << 20)
                give_room(folder / "disk.qcow2", DISK_ROOM_BYTES)
            await asyncio.to_thread(fill, disk)
            async with GuestClient(addresses) as guest:
                touch = "touch ~/marker" if phase == "save" else "head -c 300000000 /dev/zero > /dev/shm/fill"
                await guest.execute(touch, COMMAND_DEADLINE_S, shell=True)
            return ""

        async with virtual_machine(tmp_path, snapshot_dir=snapshots) as machine:
            await machine.guest.close()
            with pytest.raises(FaultError) as caught:
                await machine.desktop.revert_to_task("a", setup, END_DEADLINE_S)
            assert caught.value.fault.reason is FaultReason.DISK_FULL, caught.value.fault
            assert machine.desktop.state is DesktopState.FAILED
            assert (qemu_processes(), listening_ports()) == ([], set())
            assert [path.name for path in snapshots.iterdir() if path.is_dir()] == []
            (disk / "fill").unlink()
            is_to_fill = False
            await machine.revert()
            assert (await machine.run("ls ~/marker /dev/shm/fill 2>/dev/null")).output == ""
            state = await machine.revert_to_task("a", setup)
            # What was set up once is not set up for a snapshot again soon: its retry is plain.
            assert state is (TaskState.NONE if phase == "save" else TaskState.SET_UP)
