"""Task snapshots on real virtual machines: set up once, forked from then on, and never served unproven."""

import asyncio
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from osworld_contract.places import vm_template_dir
from osworld_envpod.desktops.base import DesktopState, GuestAddresses, TaskState
from osworld_envpod.desktops.qemu.rest import Look, look_at, moved_px
from osworld_envpod.desktops.qemu.snapshots import BUILD_PREFIX, MANIFEST
from osworld_envpod.guest import GuestClient
from vm_fixtures import COMMAND_DEADLINE_S, TEST_TIMEOUT_S, VirtualMachine, qemu_processes, virtual_machine
from waiting import wait_for

pytestmark = pytest.mark.timeout(TEST_TIMEOUT_S)

SHORT_DEADLINE_S = 100.0
"""Of a reset whose task never rests: a quarter of it is waited for that."""

GROUP = 4
WRITTEN_BY_A_FORK = ("/etc/adjtime", "/etc/mtab")
"""What in /etc is the clock's or the kernel's."""

FILES = f"""
import hashlib, os, stat
for top in ("/home", "/etc"):
    for folder, folders, names in os.walk(top):
        for path in sorted(os.path.join(folder, name) for name in [*folders, *names]):
            status = os.lstat(path)
            what = ""
            if stat.S_ISREG(status.st_mode):
                what = hashlib.sha256(open(path, "rb").read()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                what = os.readlink(path)
            if path not in {WRITTEN_BY_A_FORK!r}:
                print(path, oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, what)
"""
"""Prints all that is in home and /etc: kind, mode, owner, time of the last change, content. Run as root."""


class TaskSetup:
    """Runs a script in the guest as a task's setup, and counts how often."""

    def __init__(self, script: str, reason: str = "") -> None:
        self.script = script
        self.reason = reason
        self.runs = 0

    async def __call__(self, addresses: GuestAddresses, deadline_s: float) -> str:
        """Run it; it must end well."""
        self.runs += 1
        async with GuestClient(addresses) as guest:
            result = await guest.execute(["/bin/bash", "-c", self.script], COMMAND_DEADLINE_S)
        assert result.returncode == 0, result
        return self.reason


async def test_a_task_is_set_up_once_and_forked_from_then_on(tmp_path: Path) -> None:
    setup = TaskSetup("echo marker | tee ~/marker /dev/shm/marker; setsid -f sleep 9999 > /dev/null 2>&1")
    async with virtual_machine(tmp_path / "run", snapshot_dir=tmp_path / "snapshots") as machine:
        assert await machine.revert_to_task("a", setup) is TaskState.SET_UP
        for _ in range(2):
            await machine.output("echo episode > ~/episode; rm ~/marker; pkill sleep")
            assert await machine.revert_to_task("a", setup) is TaskState.FORKED
            found = await machine.output("cat ~/marker /dev/shm/marker; pgrep -c -x sleep; ls ~/episode 2>&1 | wc -l")
            assert found == "marker\nmarker\n1\n1\n"
        assert setup.runs == 1
        await machine.revert()
        assert (await machine.run("ls ~/marker /dev/shm/marker 2>/dev/null; pgrep -x sleep")).output == ""
        assert len(qemu_processes()) == 1
        names = {path.suffix or "folder" for path in (tmp_path / "snapshots").iterdir()}
        assert names == {"folder", ".lock"}


async def test_a_group_begins_with_the_same_files_and_the_same_screen(tmp_path: Path) -> None:
    setup = TaskSetup(
        "mkdir -p ~/work && head -c 300000 /dev/urandom > ~/work/data && date +%N > ~/work/number;"
        "echo password | sudo -S -p '' sh -c 'date +%N > /etc/number';"
        "setsid -f xterm -geometry 80x20+300+300 -e 'cat ~/work/number; exec bash' > /dev/null 2>&1"
    )
    async with virtual_machine(tmp_path / "run", snapshot_dir=tmp_path / "snapshots") as machine:
        states, files, looks = [], [], []
        for _ in range(GROUP):
            states.append(await machine.revert_to_task("a", setup))
            looks.append(await look_at(machine.desktop.addresses, COMMAND_DEADLINE_S))
            files.append(await machine.output(f"echo password | sudo -S -p '' python3 -c {shlex.quote(FILES)}"))
            await machine.output(
                "echo password | sudo -S -p '' sh -c 'echo x > /etc/number'; rm -r ~/work; pkill xterm"
            )
    assert states == [TaskState.SET_UP, *([TaskState.FORKED] * (GROUP - 1))]
    assert setup.runs == 1
    assert "/home/user/work/data " in files[0] and "/etc/number " in files[0]
    assert files == [files[0]] * GROUP
    first = looks[0]
    assert isinstance(first, Look)
    assert [look is not None and moved_px(first, look) for look in looks] == [0] * GROUP


async def test_two_env_servers_make_one_snapshot_and_fork_it_both(tmp_path: Path) -> None:
    setup = TaskSetup("echo $RANDOM$RANDOM > ~/number")
    snapshots = tmp_path / "snapshots"
    async with (
        virtual_machine(tmp_path / "one", snapshot_dir=snapshots) as one,
        virtual_machine(tmp_path / "other", snapshot_dir=snapshots) as other,
    ):
        states = await asyncio.gather(one.revert_to_task("a", setup), other.revert_to_task("a", setup))
        assert set(states) == {TaskState.SET_UP, TaskState.FORKED}
        assert setup.runs == 1
        assert await one.output("cat ~/number") == await other.output("cat ~/number")


async def test_a_maker_that_is_killed_in_the_middle_is_replaced(tmp_path: Path) -> None:
    snapshots = tmp_path / "snapshots"
    with subprocess.Popen(
        [sys.executable, "-c", MAKER, str(tmp_path / "maker"), str(snapshots)], stdout=subprocess.PIPE, text=True
    ) as maker:
        assert maker.stdout is not None
        line = await asyncio.to_thread(maker.stdout.readline)
        assert line == "setting up\n"
        assert len(qemu_processes()) == 1
        maker.send_signal(signal.SIGKILL)
    await wait_for(lambda: not qemu_processes(), COMMAND_DEADLINE_S, "no QEMU")
    assert any(path.name.startswith(BUILD_PREFIX) for path in snapshots.iterdir())
    setup = TaskSetup("echo whole > ~/marker")
    async with virtual_machine(tmp_path / "run", snapshot_dir=snapshots) as machine:
        assert await machine.revert_to_task("a", setup) is TaskState.SET_UP
        assert await machine.revert_to_task("a", setup) is TaskState.FORKED
        assert await machine.output("cat ~/marker") == "whole\n"
    assert [path.name for path in snapshots.iterdir() if path.is_dir() and not (path / MANIFEST).exists()] == []


MAKER = textwrap.dedent(f"""
    import asyncio, sys
    from pathlib import Path
    from osworld_envpod.desktops.qemu import QemuDesktop, QemuSettings

    async def setup(addresses, deadline_s):
        print("setting up", flush=True)
        await asyncio.sleep(600)

    async def main():
        run_dir, snapshot_dir = map(Path, sys.argv[1:])
        settings = QemuSettings(
            run_dir=run_dir, template_dir=Path({str(vm_template_dir())!r}), spares=0, snapshot_dir=snapshot_dir
        )
        async with QemuDesktop(settings) as desktop:
            await desktop.revert_to_task("a", setup, 600)

    asyncio.run(main())
""")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("setsid -f xterm -e 'while :; do echo $RANDOM; done' > /dev/null 2>&1", id="never still"),
        pytest.param(
            "cat > /tmp/watch.py <<'E'\n"
            "import subprocess, time\n"
            "offset = time.time() - time.monotonic()\n"
            "while abs(time.time() - time.monotonic() - offset) < 0.05:\n"
            "    time.sleep(0.5)\n"
            "subprocess.run(['xterm', '-T', 'the clock has jumped'])\n"
            "E\n"
            "setsid -f python3 /tmp/watch.py > /dev/null 2>&1",
            id="another screen in a fork",
        ),
    ],
)
async def test_what_cannot_be_frozen_serves_as_it_is_and_is_set_up_once_a_reset(tmp_path: Path, script: str) -> None:
    setup = TaskSetup(f"echo marker > ~/marker; {script}")
    async with virtual_machine(tmp_path / "run", snapshot_dir=tmp_path / "snapshots") as machine:
        assert await machine.revert_to_task("a", setup, SHORT_DEADLINE_S) is TaskState.SET_UP
        assert setup.runs == 1
        assert await machine.output("cat ~/marker") == "marker\n"
        shown = (await machine.guest.agent(COMMAND_DEADLINE_S)).boot_id
        await machine.desktop.pause(COMMAND_DEADLINE_S)
        assert await machine.revert_to_task("a", setup, SHORT_DEADLINE_S) is TaskState.NONE
        assert machine.desktop.state is DesktopState.PAUSED
        await machine.revert()
        assert (await machine.guest.agent(COMMAND_DEADLINE_S)).boot_id != shown
        assert (await machine.run("ls ~/marker")).returncode != 0
    assert not list((tmp_path / "snapshots").glob(f"*/{MANIFEST}"))
    assert not list((tmp_path / "snapshots").glob(f"{BUILD_PREFIX}*"))
    assert not qemu_processes()


async def test_a_setup_that_must_not_serve_again_is_run_at_each_reset(machine: VirtualMachine, tmp_path: Path) -> None:
    setup = TaskSetup("echo marker > ~/marker", reason="it keeps files elsewhere")
    async with virtual_machine(tmp_path / "run", snapshot_dir=tmp_path / "snapshots") as other:
        assert await other.revert_to_task("a", setup) is TaskState.SET_UP
        assert await other.revert_to_task("a", setup) is TaskState.NONE
        assert await other.output("cat ~/marker") == "marker\n"
    assert await machine.revert_to_task("a", setup) is TaskState.NONE, "without a folder for snapshots"
