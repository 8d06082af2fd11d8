"""The life of a real xvfb desktop: start, revert, parts that are killed, stop."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from desktop_fixtures import REVERT_DEADLINE_S, Machine, eventually, machine, sandbox_processes
from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.desktops.base import DesktopState
from osworld_envpod.desktops.xvfb import XvfbDesktop, XvfbSettings
from process_looks import name_of, words_of
from waiting import wait_for, wait_until

END_DEADLINE_S = 10.0


async def _leave_traces(running: Machine) -> None:
    """Leave one trace of each kind that an episode can leave."""
    await running.output("echo marker > ~/Desktop/marker; echo marker > ~/.bashrc; mkdir -p ~/.config/marker")
    await running.output(
        "echo marker > /tmp/marker; echo marker > /run/user/1000/marker; echo marker > /dev/shm/marker"
    )
    await running.output("setsid -f sleep 9999 > /dev/null 2>&1")
    await running.output("echo -n marker | setsid -f xclip -selection clipboard > /dev/null 2>&1")
    await running.output("gsettings set org.gnome.desktop.session idle-delay 1")
    await running.output("gsettings set org.gnome.desktop.background picture-uri file:///marker")
    await eventually(lambda: running.succeeds("test -e ~/.config/dconf/user"), 5, "the dconf file")


async def _traces(running: Machine) -> str:
    """Return every trace that is there."""
    found = await running.run(
        "find ~ /tmp /run/user /dev/shm /var/tmp -name '*marker*' 2>/dev/null; grep -rl marker ~ /tmp 2>/dev/null;"
        "pgrep -a sleep; xclip -selection clipboard -o 2>/dev/null; ls ~/.config/dconf 2>/dev/null;"
        "gsettings get org.gnome.desktop.background picture-uri | grep marker"
    )
    return found.output


@pytest.mark.parametrize("spares", [0, 1])
async def test_a_revert_leaves_nothing_of_the_episode_before(tmp_path: Path, spares: int) -> None:
    async with machine(tmp_path, spares=spares) as running:
        before = await running.guest.agent(5)
        await _leave_traces(running)
        assert "sleep 9999" in await _traces(running)
        old = sandbox_processes(os.getpid())[:1]
        await running.revert()
        assert await _traces(running) == ""
        assert await running.output("gsettings get org.gnome.desktop.session idle-delay") == "uint32 300\n"
        assert (await running.guest.agent(5)).boot_id != before.boot_id
        assert not any(process.is_running() and process.pid == old[0].pid for process in sandbox_processes(os.getpid()))


async def test_many_reverts_leave_no_process_and_no_file(tmp_path: Path) -> None:
    async with machine(tmp_path, spares=1) as running:
        for _ in range(4):
            await running.revert()
            assert running.desktop.state is DesktopState.READY
        bwraps = [process for process in sandbox_processes(os.getpid()) if name_of(process) == "bwrap"]
        assert len(bwraps) <= 4  # two sandboxes, of each the one outside and none or one inside
        folders = [path for path in next(tmp_path.iterdir()).iterdir() if path.is_dir()]
        assert len(folders) <= 2


async def test_ports_stay_and_old_connections_end_at_a_revert(tmp_path: Path) -> None:
    async with machine(tmp_path) as running, httpx.AsyncClient(timeout=10) as client:
        port = running.desktop.addresses.server_port
        url = running.url
        assert (await client.get(f"{url}/agent")).status_code == 200
        await running.revert()
        assert running.desktop.addresses.server_port == port
        async with httpx.AsyncClient(timeout=10) as fresh:
            boot_id = (await fresh.get(f"{url}/agent")).json()["boot_id"]
        assert boot_id == (await running.guest.agent(5)).boot_id


@pytest.mark.parametrize("part", ["osworld_guest --display-fd", "Xvfb :0", "osworld_guest.session", "bwrap"])
async def test_a_killed_part_fails_the_desktop_at_once_and_a_revert_repairs_it(tmp_path: Path, part: str) -> None:
    async with machine(tmp_path) as running:
        victims = [
            process
            for process in sandbox_processes(os.getpid())
            if (name_of(process) == part if part == "bwrap" else part in words_of(process))
        ]
        victim = next(process for process in victims if part == "bwrap" or name_of(process) != "bwrap")
        victim.kill()
        await wait_for(lambda: running.desktop.state is DesktopState.FAILED, 5, f"FAILED after {part} was killed")
        with pytest.raises(RuntimeError):
            _ = running.desktop.addresses
        await running.revert()
        assert running.desktop.state is DesktopState.READY
        assert len(await running.guest.screenshot(5)) > 10_000


async def test_a_part_killed_from_inside_fails_the_desktop_too(tmp_path: Path) -> None:
    async with machine(tmp_path) as running:
        with pytest.raises(FaultError) as caught:
            await running.run("pkill -KILL Xvfb; sleep 20")
        assert caught.value.fault.reason is FaultReason.GUEST_UNREACHABLE
        await wait_for(lambda: running.desktop.state is DesktopState.FAILED, 5, "FAILED")
        await running.revert()
        assert (await running.guest.agent(5)).ready


async def test_window_manager_and_panel_come_back_when_they_are_killed(tmp_path: Path) -> None:
    async with machine(tmp_path) as running:
        await running.output("pkill -KILL openbox; pkill -KILL tint2")

        async def are_back() -> bool:
            return bool(await running.output("pgrep openbox && pgrep tint2 && timeout 5 wmctrl -m"))

        assert await eventually(are_back, 10, "window manager and panel")
        assert running.desktop.state is DesktopState.READY


async def test_a_program_that_keeps_ending_does_not_use_up_the_restarts_of_others(tmp_path: Path) -> None:
    async with machine(tmp_path) as running:
        kill_until_given_up = (
            "while :; do pkill -KILL tint2 && n=0 || n=$((n + 1)); [ $n -lt 20 ] || exit 0; sleep 0.1; done"
        )
        await running.output(kill_until_given_up)
        window_manager = await running.output("pgrep openbox")
        await running.output("pkill -KILL openbox")

        async def is_back() -> bool:
            return await running.output("pgrep openbox && timeout 5 wmctrl -m >/dev/null") != window_manager

        assert await eventually(is_back, 10, "the window manager")


async def test_stop_leaves_no_process_no_port_and_no_file(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    async with machine(tmp_path, spares=1) as running:
        addresses = running.desktop.addresses
        ports = [addresses.server_port, addresses.chromium_port, addresses.vlc_port, addresses.vnc_port]
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before
    listening = {connection.laddr.port for connection in psutil.Process().net_connections() if connection.laddr}
    assert not listening & set(ports)
    assert list(tmp_path.iterdir()) == []
    assert running.desktop.state is DesktopState.STOPPED


async def test_moves_that_the_state_does_not_allow_raise(tmp_path: Path) -> None:
    desktop = XvfbDesktop(XvfbSettings(run_dir=tmp_path, spares=0))
    with pytest.raises(RuntimeError):
        await desktop.revert(REVERT_DEADLINE_S)
    await desktop.stop(END_DEADLINE_S)
    async with machine(tmp_path) as running:
        with pytest.raises(RuntimeError):
            await running.desktop.start(REVERT_DEADLINE_S)
        await running.desktop.pause(1)
        assert running.desktop.state is DesktopState.READY


async def test_a_revert_that_is_out_of_time_is_a_fault_and_the_next_one_works(tmp_path: Path) -> None:
    async with machine(tmp_path) as running:
        await running.guest.close()
        with pytest.raises(FaultError) as caught:
            await running.desktop.revert(0.05)
        assert caught.value.fault.reason is FaultReason.DESKTOP_UNCLEAN
        assert str(running.desktop.state) == "failed"
        assert not list(tmp_path.glob("x-*/*/session.log")), "what was being made is gone"
        await running.revert()
        assert running.desktop.state is DesktopState.READY


async def test_two_desktops_side_by_side_have_the_same_display_and_do_not_meet(tmp_path: Path) -> None:
    async with machine(tmp_path) as one, machine(tmp_path) as two:
        assert await one.output("echo -n $DISPLAY") == await two.output("echo -n $DISPLAY") == ":0"
        await one.output("echo marker > ~/marker; echo marker > /tmp/marker; setsid -f sleep 8888 >/dev/null 2>&1")
        await one.output("gsettings set org.gnome.desktop.session idle-delay 7")
        seen = await two.run(
            "cat ~/marker /tmp/marker; pgrep -a sleep; gsettings get org.gnome.desktop.session idle-delay"
        )
        assert seen.output == "uint32 300\n"
        await one.open_terminal()
        assert "terminal" not in (await two.output("wmctrl -lx")).lower()


_SERVER = """
import asyncio, json, os, sys
from pathlib import Path
from osworld_envpod.desktops.xvfb import XvfbDesktop, XvfbSettings

async def main():
    async with XvfbDesktop(XvfbSettings(run_dir=Path(sys.argv[1]), spares=1)) as desktop:
        print(json.dumps({"port": desktop.addresses.server_port}), flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_killed_env_server_leaves_no_process_and_its_folder_is_swept(tmp_path: Path) -> None:
    server = subprocess.Popen([sys.executable, "-c", _SERVER, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(server.stdout.readline), 60)
        assert json.loads(line)["port"] > 0
        inside = await wait_for(
            lambda: [p for p in sandbox_processes(server.pid) if name_of(p) == "tint2"], 20, "a panel below the server"
        )
        everything = sandbox_processes(server.pid)
        assert inside
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait(10)
        if server.stdout is not None:
            server.stdout.close()
    wait_until(lambda: not any(p.is_running() for p in everything), END_DEADLINE_S, "no process of the sandboxes")
    left = list(tmp_path.iterdir())
    assert len(left) == 1
    async with machine(tmp_path) as running:
        assert left[0] not in list(tmp_path.iterdir())
        assert running.desktop.state is DesktopState.READY


_START = """
import asyncio, sys
from pathlib import Path
from osworld_contract.faults import FaultError
from osworld_envpod.desktops.xvfb import XvfbDesktop, XvfbSettings

async def main():
    try:
        async with XvfbDesktop(XvfbSettings(run_dir=Path(sys.argv[1]))):
            return "started"
    except FaultError as error:
        return f"{error.fault.reason}: {error.fault.message}"

print(asyncio.run(main()))
"""


async def test_a_run_folder_that_cannot_be_made_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for run_dir in (tmp_path / "file", Path("/proc/nowhere"), tmp_path / ("long" * 40)):
        desktop = XvfbDesktop(XvfbSettings(run_dir=run_dir, spares=0))
        with pytest.raises(FaultError) as caught:
            await desktop.start(30)
        assert caught.value.fault.reason is FaultReason.DESKTOP_START_FAILED
        assert desktop.state is DesktopState.FAILED
        await desktop.stop(10)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("cache", "sentence"),
    [
        ("{tmp}/empty", "desktop_start_failed: the guest runtime is not built yet"),
        ("/proc/nowhere", "desktop_start_failed: the guest runtime is not built yet"),
    ],
)
def test_a_start_that_cannot_be_says_why_in_one_sentence(tmp_path: Path, cache: str, sentence: str) -> None:
    environment = os.environ | {"OSWORLD_CACHE_DIR": cache.format(tmp=tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _START, str(tmp_path / "run")],
        capture_output=True, text=True, env=environment, timeout=60, check=False,
    )  # fmt: skip
    assert sentence in done.stdout, done
    assert "Traceback" not in done.stderr
