"""Started programs: tethered to their parent, stopped in rungs, started again, given up. With real processes."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from osworld_env.child import Child, exit_words
from osworld_env.errors import BadUsageError, CliError, ProgramError
from osworld_env.keeper import Keeper, KeeperState, Launch, Limits
from osworld_env.ports import PortPicker, ensure_free, free_port
from waiting import wait_for, wait_until

DEADLINE_S = 20.0

PARENT = """
import asyncio, os, sys
from pathlib import Path
from osworld_env.child import Child

async def main():
    child = await Child.start("child", (sys.executable, "-c", sys.argv[1]), os.environ, Path(sys.argv[2]))
    print(child.pid, flush=True)
    await child.wait()

asyncio.run(main())
"""

SLEEPER = "import time; time.sleep(300)"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(300)
"""
SERVER = """
import http.server, sys
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", PARENT, SLEEPER, str(tmp_path / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    wait_until(lambda: not is_alive(pid), DEADLINE_S, "the child ended")


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = await Child.start("deaf", (sys.executable, "-c", STUBBORN), os.environ, log)
    await wait_for(lambda: b"deaf" in log.read_bytes(), DEADLINE_S, "the program started")
    await child.stop(0.2)
    assert child.returncode == -signal.SIGKILL
    assert not is_alive(child.pid)
    assert child.log_tail() == ("deaf",)
    await child.stop(0.2)


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    child = await Child.start("nothing", ("/nonexistent/program",), os.environ, tmp_path / "log")
    assert await child.wait() != 0
    with pytest.raises(ProgramError, match="nothing cannot be started"):
        await Child.start("nothing", ("/bin/true",), os.environ, tmp_path / "no folder" / "log")


def kept(launch: Callable[[], Launch], log: Path, on_ready: Callable[[Child], None] = lambda _: None) -> Keeper:
    limits = Limits(start_s=DEADLINE_S, stop_s=5.0, restarts_max=2, backoff_first_s=0.01)
    return Keeper("server", launch, on_ready, log, limits)


def server_launch(port: int) -> Launch:
    return Launch((sys.executable, "-c", SERVER, str(port)), os.environ, f"http://127.0.0.1:{port}/", port)


async def test_a_program_that_is_killed_is_started_again(tmp_path: Path) -> None:
    seen = list[int]()
    keeper = kept(lambda: server_launch(free_port()), tmp_path / "log", lambda child: seen.append(child.pid))
    await keeper.start()
    watch = asyncio.create_task(keeper.watch())
    try:
        first_port = keeper.port
        os.kill(seen[0], signal.SIGKILL)
        await wait_for(lambda: len(seen) == 2, DEADLINE_S, "the second start")
        assert keeper.state is KeeperState.READY
        assert keeper.port != first_port
    finally:
        watch.cancel()
        await keeper.stop()
    assert not [pid for pid in seen if is_alive(pid)]


def test_a_port_that_is_given_is_its_programs_alone() -> None:
    with PortPicker() as ports:
        port = ports.pick()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)) as own:  # asks for SO_REUSEADDR, as env servers and routers do
            assert own.getsockname()[1] == port
            ports.release(port)
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))
        assert port not in {ports.pick() for _ in range(100)}


def test_a_port_that_is_given_is_none_of_those_for_outgoing_connections() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    with PortPicker() as ports:
        assert not first <= ports.pick() <= last
    assert not first <= free_port() <= last


async def test_a_program_that_keeps_ending_is_given_up(tmp_path: Path) -> None:
    launches = [server_launch(free_port())]
    keeper = kept(lambda: launches[0], tmp_path / "log")
    await keeper.start()
    launches[0] = Launch((sys.executable, "-c", "raise SystemExit('no luck')"), os.environ, launches[0].ready_url, 1)
    assert keeper.child is not None
    keeper.child.send_kill()
    await keeper.watch()
    assert keeper.state is KeeperState.GIVEN_UP
    assert "no luck" in (tmp_path / "log").read_text()


async def test_a_program_that_ends_before_it_is_ready_shows_its_log(tmp_path: Path) -> None:
    launch = Launch((sys.executable, "-c", "raise SystemExit('PROVIDER: wrong')"), os.environ, "http://127.0.0.1:1/", 1)
    with pytest.raises(ProgramError, match="server ended with exit code 1 before it was ready") as caught:
        await kept(lambda: launch, tmp_path / "log").start()
    assert caught.value.details == ("PROVIDER: wrong",)


async def test_a_program_that_is_never_ready_is_stopped(tmp_path: Path) -> None:
    launch = Launch((sys.executable, "-c", SLEEPER), os.environ, f"http://127.0.0.1:{free_port()}/", 1)
    keeper = Keeper("server", lambda: launch, lambda _: None, tmp_path / "log", Limits(start_s=0.5, stop_s=5.0))
    with pytest.raises(ProgramError, match=r"was not ready after 0\.5 s"):
        await keeper.start()
    assert keeper.child is not None
    assert not is_alive(keeper.child.pid)


def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CliError, match=f"port {port} of 127.0.0.1 is taken"):
            ensure_free("127.0.0.1", port)
    with pytest.raises(BadUsageError, match="is no address of this machine"):
        ensure_free("192.0.2.1", 0)


def test_ends_have_words() -> None:
    assert exit_words(3) == "ended with exit code 3"
    assert exit_words(-signal.SIGKILL) == "was ended by SIGKILL"
