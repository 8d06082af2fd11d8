"""Breaks virtual machines at a known moment, from outside: by signals to QEMU, and to the agent in its guest.

Each phase is known by what QEMU's process and files show then; nothing in the product helps. Into a guest leads a
connection to a process that waits in it.
"""

import asyncio
import contextlib
import shlex
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import psutil

from osworld_contract.names import GUEST_VLC_PORT
from osworld_envpod.desktops.qemu import QemuSettings
from osworld_envpod.desktops.qemu.argv import GUEST_PORTS, LOOPBACK
from osworld_envpod.desktops.qemu.bounds import Bounds
from osworld_envpod.desktops.qemu.fork import Fork, template_of
from osworld_envpod.desktops.qemu.host import qemu_version
from osworld_envpod.desktops.qemu.image import find_image
from osworld_envpod.desktops.qemu.template import open_template
from osworld_envpod.desktops.qemu.vm import vm_of
from osworld_envpod.guest import GuestClient
from vm_fixtures import COMMAND_DEADLINE_S, REVERT_DEADLINE_S, listening_ports_of, qemu_processes

TICK_S = 0.005
HEARD_S = 0.1
"""For an answer from a guest, until it is told again. A fork that wakes under emulation takes longer to become its own.
"""
HEARD: Final = b"heard"

AWAKE_CPU_S = 0.4
"""Processor time of a QEMU whose guest runs. A guess: loading takes some 0.1 s."""

Strike = Callable[[psutil.Process], Awaitable[None]]

AGENT: Final = "osworld_guest --displa[y]-fd"
"""Of its command line, as pattern for pkill: it does not find the shell that has it in its own."""

_BREAKER: Final = f"""
import ctypes, os, signal, socket, sys
agent = int(sys.argv[1])
listener = socket.create_server(("0.0.0.0", {GUEST_VLC_PORT}))
libc = ctypes.CDLL(None)
looks = libc.inotify_init()
if os.fork():
    sys.exit()
while True:
    connection, _ = listener.accept()
    try:
        how, when = connection.recv(100).decode().split()
        connection.send({HEARD!r})
    except (OSError, ValueError):
        continue
    if when == "proof":
        for folder in (os.path.expanduser("~"), "/tmp"):
            libc.inotify_add_watch(looks, folder.encode(), 0x20)
        os.read(looks, 4096)
    os.kill(agent, getattr(signal, "SIG" + how))
"""
"""Breaks the guest's agent when it is told to: at once, or when home or /tmp are listed (IN_OPEN), as in a proof."""

ARM: Final = f"setsid python3 -c {shlex.quote(_BREAKER)} $(pgrep -f '{AGENT}') </dev/null >/dev/null 2>&1"
"""Starts it in a guest. It passes for one of the session's processes, and leaves no file."""


def sends(how: signal.Signals) -> Strike:
    """Return what sends `how` to QEMU."""

    async def strike(process: psutil.Process) -> None:
        process.send_signal(how)

    return strike


def tells(how: str, when: str) -> Strike:
    """Return what has the agent sent the signal `how`: at once (``wake``), or in the middle of its ``proof``."""

    async def strike(process: psutil.Process) -> None:
        ports = listening_ports_of(process)  # which is which only QEMU knows
        # A connection from before QEMU has loaded the guest's state is forgotten.
        while not any(await asyncio.gather(*(_is_heard(port, f"{how} {when}") for port in ports))):
            pass

    return strike


async def _is_heard(port: int, order: str) -> bool:
    with contextlib.suppress(TimeoutError, ConnectionResetError):
        async with asyncio.timeout(HEARD_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(order.encode())
                return await reader.read(len(HEARD)) == HEARD
            finally:
                writer.close()
    return False


def at_once(process: psutil.Process) -> bool:
    """Hold from when QEMU is there."""
    return True


def listens(process: psutil.Process) -> bool:
    """Hold from when QEMU listens for its guest, which does not run yet."""
    return len(listening_ports_of(process)) == len(GUEST_PORTS)


def awake(process: psutil.Process) -> bool:
    """Hold from when QEMU's guest runs."""
    return sum(process.cpu_times()[:2]) > AWAKE_CPU_S


@contextlib.asynccontextmanager
async def struck(how: Strike, is_time: Callable[[psutil.Process], bool]) -> AsyncIterator[list[int]]:
    """Do `how` to the first QEMU that is new and for which `is_time` holds; give the ids of those it was done to."""
    known = {process.pid for process in qemu_processes()}
    hit: list[int] = []

    async def strike() -> None:
        while not hit:
            for process in qemu_processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.pid not in known and is_time(process):
                        hit.append(process.pid)
                        await how(process)
                        return
            await asyncio.sleep(TICK_S)

    task = asyncio.create_task(strike())
    try:
        yield hit
    finally:
        task.cancel()


async def armed_template(store: Path) -> None:
    """Put a template into `store` that is one of a clean desktop, but for what waits in it to break its agent."""
    settings = QemuSettings()
    image, version = await find_image(None), await qemu_version()
    vm = await vm_of(image, settings, version)
    plain = await template_of(vm, version, image, settings)

    async def build(folder: Path) -> None:
        fork = await Fork.load_copy(vm, plain, folder)
        async with fork.ended_on_failure():
            await fork.wake(REVERT_DEADLINE_S)
            async with GuestClient(fork.addresses) as guest:
                result = await guest.execute(ARM, COMMAND_DEADLINE_S, shell=True)
            assert result.returncode == 0, result
            await fork.machine.save(folder / "state")
            await fork.machine.quit()

    bounds = Bounds(settings.templates_max, settings.templates_max_bytes)
    try:
        armed = await open_template(store, vm.template_key(version, image.digest), build, bounds)
    finally:
        plain.release()
    armed.release()
