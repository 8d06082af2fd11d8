"""Real virtual machines for tests. One template serves all of a run; a failed test leaves console and screen."""

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from osworld_contract.faults import FaultError
from osworld_contract.places import vm_template_dir
from osworld_envpod.desktops.base import DesktopState, GuestAddresses, Setup, TaskState
from osworld_envpod.desktops.qemu import QemuDesktop, QemuSettings
from osworld_envpod.desktops.qemu.argv import QEMU
from osworld_envpod.guest import CommandResult, GuestClient
from osworld_envpod.images import ImageRequest, parse_address
from osworld_envpod.osworld_guest import guest_of

COMMAND_DEADLINE_S = 60.0
REVERT_DEADLINE_S = 120.0
TASK_DEADLINE_S = 300.0
START_DEADLINE_S = 900.0
"""For one that boots, on a busy machine; also for a server on one to be ready."""

TEST_TIMEOUT_S = START_DEADLINE_S + 420.0
"""Of a test whose machine may have to boot first."""

KERNEL_NAME_CHARS = 15
"""What the kernel keeps of a process's name; psutil gives more where it can."""

OUT = Path("out") / "failed-tests"


@dataclass
class VirtualMachine:
    """A running desktop and the client of its present fork."""

    desktop: QemuDesktop
    guest: GuestClient

    async def run(self, script: str) -> CommandResult:
        """Run `script` in the guest's bash."""
        return await self.guest.execute(["/bin/bash", "-c", script], COMMAND_DEADLINE_S)

    async def output(self, script: str) -> str:
        """Return what `script` prints; it must end well."""
        result = await self.run(script)
        assert result.returncode == 0, result
        return result.output

    async def revert_to_task(self, key: str, setup: Setup, deadline_s: float = TASK_DEADLINE_S) -> TaskState:
        """Revert the desktop to the task `key`, and connect to its new fork; where that is refused, nothing changes."""
        state = await self.desktop.revert_to_task(key, setup, deadline_s)
        if state is not TaskState.NONE:
            await self.guest.close()
            self.guest = guest_of(self.desktop.addresses)
        return state

    async def revert(self) -> None:
        """Revert the desktop and connect to its new fork."""
        await self.guest.close()
        await self.desktop.revert(REVERT_DEADLINE_S)
        self.guest = guest_of(self.desktop.addresses)


async def nothing(addresses: GuestAddresses, deadline_s: float) -> str:
    """Set nothing up."""
    return ""


@contextlib.asynccontextmanager
async def virtual_machine(
    run_dir: Path,
    template_dir: Path | None = None,
    spares: int = 0,
    snapshot_dir: Path | None = None,
    start_deadline_s: float = START_DEADLINE_S,
) -> AsyncIterator[VirtualMachine]:
    """Give a running desktop, and stop it. It keeps task snapshots where it is given a folder for them."""
    settings = QemuSettings(
        run_dir=run_dir, template_dir=template_dir or vm_template_dir(), spares=spares,
        start_deadline_s=start_deadline_s,
        task_snapshots=snapshot_dir is not None, snapshot_dir=snapshot_dir or run_dir,
    )  # fmt: skip
    async with machine_of(settings) as running:
        yield running


@contextlib.asynccontextmanager
async def machine_of(settings: QemuSettings) -> AsyncIterator[VirtualMachine]:
    """Give a running desktop, and stop it."""
    async with QemuDesktop(settings) as desktop:
        running = VirtualMachine(desktop, guest_of(desktop.addresses))
        try:
            yield running
        finally:
            await running.guest.close()


def disk_settings(folder: Path, place: Path) -> QemuSettings:
    """Return settings for the whole disk in `folder`, with no more memory than our own desktop needs."""
    image = ImageRequest(parse_address(str(folder)))
    return QemuSettings(run_dir=place / "run", image=image, memory_mib=1024, spares=0, snapshot_dir=place / "snapshots")


async def save(running: VirtualMachine, run_dir: Path) -> None:
    """Keep console and screen of a test that failed."""
    OUT.mkdir(parents=True, exist_ok=True)
    name = os.environ.get("PYTEST_CURRENT_TEST", "vm").split("::")[-1].split(" ")[0].replace("/", "_")
    for console in run_dir.rglob("console"):
        (OUT / f"{name}.console").write_bytes(console.read_bytes())
    if running.desktop.state is DesktopState.READY:
        with contextlib.suppress(FaultError, OSError):
            (OUT / f"{name}.png").write_bytes(await running.guest.screenshot(COMMAND_DEADLINE_S))


def qemu_processes() -> list[psutil.Process]:
    """Return the QEMU processes of this test run."""
    return [child for child in psutil.Process().children(recursive=True) if _is_running_qemu(child)]


def _is_running_qemu(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.name().startswith(QEMU[:KERNEL_NAME_CHARS])
    except psutil.NoSuchProcess:  # a qemu-img that has done its work
        return False


def listening_ports() -> set[int]:
    """Return the ports that this test run's QEMU processes listen on."""
    return {port for process in qemu_processes() for port in listening_ports_of(process)}


def listening_ports_of(process: psutil.Process) -> set[int]:
    """Return the ports that `process` listens on."""
    connections = process.net_connections("tcp4")
    return {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}
