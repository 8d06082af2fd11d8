"""Virtual machines: a reset by a fork, with its baselines on the same guest in the same run.

Baselines of a reset: a cold boot of the same machine, and QEMU's own ``loadvm`` into a machine that goes on running.
Every reset's clock starts with a machine that runs and ends at a screenshot that decodes: teardown, new machine, clock,
entropy, proof and screenshot are all in it, less what a way does not need. Over 300 lines: a way beside the run that it
is compared in would be another run.
"""

import argparse
import asyncio
import io
import json
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from PIL import Image

from osworld_contract.faults import FaultError
from osworld_contract.places import vm_template_dir
from osworld_envpod.desktops.base import GuestAddresses
from osworld_envpod.desktops.qemu import QemuDesktop, QemuSettings
from osworld_envpod.desktops.qemu.argv import GUEST_PORTS, LOOPBACK, Role, VmFiles, VmShape, qemu_argv
from osworld_envpod.desktops.qemu.files import make_overlay
from osworld_envpod.desktops.qemu.fork import Fork
from osworld_envpod.desktops.qemu.guests import OwnGuest
from osworld_envpod.desktops.qemu.image import find_image
from osworld_envpod.desktops.qemu.machine import Machine
from osworld_envpod.desktops.qemu.settings import Accelerator
from osworld_envpod.desktops.qemu.vm import Vm
from osworld_envpod.guest import GuestClient

DEADLINE_S = 900.0
LOOK_S = 5.0
RETRY_S = 0.2
EPISODE_S = 5.0
"""Between two resets, so that the spare fork is there as it is after an episode."""


@dataclass(frozen=True)
class Figures:
    """Medians; seconds unless the name says ms or MiB."""

    accelerator: str
    memory_mib: int
    forks: int
    boots: int
    cold_boot_s: float
    loadvm_reset_s: float
    fork_reset_s: float
    fork_reset_p95_s: float
    spare_reset_s: float
    boot_over_fork: float
    boot_over_spare: float
    loadvm_over_fork: float
    fork_host_part_ms: float
    cont_to_running_ms: float
    template_ram_mib: float
    booted_pss_mib: float
    one_more_fork_pss_mib: float
    one_more_fork_ram_mib: float
    pause_and_resume_ms: float
    screenshot_ms: float
    screenshot_paused_around_ms: float


@dataclass(frozen=True)
class Rig:
    """What all machines of a run share."""

    vm: Vm
    disk: Path
    folder: Path

    def files(self, name: str) -> VmFiles:
        """Return the files of the machine `name`, in a folder that is made for it."""
        folder = self.folder / name
        folder.mkdir()
        return VmFiles(self.vm.boot, folder / "disk.qcow2", folder / "ram", folder / "qmp", folder / "console")


async def main() -> None:
    """Measure, and print a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--forks", type=int, default=5)
    parser.add_argument("--boots", type=int, default=2)
    parser.add_argument("--memory-mib", type=int, default=1024)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = await measure(Path(folder), wanted.forks, wanted.boots, wanted.memory_mib)
    print(json.dumps(asdict(figures)))


async def measure(folder: Path, forks: int, boots: int, memory_mib: int) -> Figures:
    """Return all figures."""
    settings = QemuSettings(
        run_dir=folder, template_dir=vm_template_dir(), memory_mib=memory_mib, spares=0, accelerator=Accelerator.AUTO
    )
    async with QemuDesktop(settings) as desktop:
        fork_s = [await timed(lambda: reset(desktop)) for _ in range(forks)]
        shape = VmShape(Accelerator(desktop.facts.accelerator), settings.cpus, memory_mib)
        image = await find_image(None)
        assert image.direct_boot is not None
        rig = Rig(Vm(shape, image.direct_boot, OwnGuest()), image.disk, folder)
        plain_s, paused_s, switch_s = await pauses(desktop, forks * 3)
        host_s, running_s, (more_bytes, more_ram_bytes) = await bare_forks(rig, desktop, forks)
        ram = desktop.template.part("ram").stat().st_blocks * 512
    async with QemuDesktop(QemuSettings(run_dir=folder, memory_mib=memory_mib, spares=1)) as desktop:
        spare_s = []
        for _ in range(forks):
            await asyncio.sleep(EPISODE_S)
            spare_s.append(await timed(lambda: reset(desktop)))
    boot_s, booted_bytes, loadvm_s = await boots_and_loads(rig, boots, forks)
    fork, spare = statistics.median(fork_s), statistics.median(spare_s)
    boot, loadvm = statistics.median(boot_s), statistics.median(loadvm_s)
    return Figures(
        accelerator=shape.accelerator,
        memory_mib=memory_mib,
        forks=forks,
        boots=boots,
        cold_boot_s=round(boot, 2),
        loadvm_reset_s=round(loadvm, 2),
        fork_reset_s=round(fork, 2),
        fork_reset_p95_s=round(statistics.quantiles(fork_s, n=20, method="inclusive")[-1], 2),
        spare_reset_s=round(spare, 2),
        boot_over_fork=round(boot / fork, 1),
        boot_over_spare=round(boot / spare, 1),
        loadvm_over_fork=round(loadvm / fork, 1),
        fork_host_part_ms=ms(host_s),
        cont_to_running_ms=ms(running_s),
        template_ram_mib=mib(ram),
        booted_pss_mib=mib(booted_bytes),
        one_more_fork_pss_mib=mib(more_bytes),
        one_more_fork_ram_mib=mib(more_ram_bytes),
        pause_and_resume_ms=ms(switch_s),
        screenshot_ms=ms(plain_s),
        screenshot_paused_around_ms=ms(paused_s),
    )


async def reset(desktop: QemuDesktop) -> None:
    """Revert and look."""
    await desktop.revert(DEADLINE_S)
    async with GuestClient(desktop.addresses) as guest:
        await look(guest)


async def pauses(desktop: QemuDesktop, count: int) -> tuple[list[float], list[float], list[float]]:
    """Return the seconds of a screenshot, of one of a machine that is paused before and after it, in turn; and of a
    resume and a pause alone."""
    plain_s, paused_s, switch_s = [], [], []

    async def switch() -> None:
        await desktop.resume(DEADLINE_S)
        await desktop.pause(DEADLINE_S)

    async with GuestClient(desktop.addresses) as guest:

        async def step() -> None:
            await desktop.resume(DEADLINE_S)
            await look(guest)
            await desktop.pause(DEADLINE_S)

        for _ in range(count):
            plain_s.append(await timed(lambda: look(guest)))
            await desktop.pause(DEADLINE_S)
            switch_s.append(await timed(switch))
            paused_s.append(await timed(step))
            await desktop.resume(DEADLINE_S)
    return plain_s, paused_s, switch_s


async def bare_forks(rig: Rig, desktop: QemuDesktop, count: int) -> tuple[list[float], list[float], list[float]]:
    """Return the seconds of the host's part of a fork and from ``cont`` to running, and one more fork's bytes.

    The bytes are as `qemu_pss` has them. The desktop's own fork runs beside, so that the bytes are those of one more.
    """
    host_s, running_s, more_bytes = [], [], []
    for number in range(count):
        before = qemu_pss()
        began = time.monotonic()
        fork = await Fork.load(rig.vm, desktop.template, rig.folder / f"bare-{number}")
        host_s.append(time.monotonic() - began)
        try:
            began = time.monotonic()
            await run(fork.machine)
            running_s.append(time.monotonic() - began)
            await fork.wake(DEADLINE_S)
            async with GuestClient(fork.addresses) as guest:
                await look(guest)
            more_bytes.append([after - first for after, first in zip(qemu_pss(), before, strict=True)])
        finally:
            await fork.kill()
    return host_s, running_s, [statistics.median(parts) for parts in zip(*more_bytes, strict=True)]


async def run(machine: Machine) -> None:
    """Let the guest run, and see that it does."""
    await machine.execute("cont")
    status = await machine.execute("query-status")
    assert status["status"] == "running", status


async def boots_and_loads(rig: Rig, boots: int, loads: int) -> tuple[list[float], int, list[float]]:
    """Return the seconds of cold boots, the last one's bytes, and the seconds of its ``loadvm`` resets."""
    boot_s: list[float] = []
    machine = None
    try:
        for number in range(boots):
            began = time.monotonic()
            if machine is not None:  # the first boot has nothing to end, which favours this baseline
                await machine.kill()
            machine = await boot(rig, f"boot-{number}")
            boot_s.append(time.monotonic() - began)
        assert machine is not None, "at least one boot"
        booted_bytes, _ = qemu_pss()
        await monitor(machine, "savevm fresh")
        return boot_s, booted_bytes, [await timed(lambda: loadvm(machine)) for _ in range(loads)]
    finally:
        if machine is not None:
            await machine.kill()


async def boot(rig: Rig, name: str) -> Machine:
    """Boot the image as a template boots, to a screenshot that decodes."""
    files = rig.files(name)
    await make_overlay(files.disk, rig.disk)
    machine = await Machine.launch(
        qemu_argv(rig.vm.shape, files, Role.TEMPLATE), files, files.disk.with_name("state"), is_loaded=False
    )
    addresses = await forwarded(machine)
    while True:
        async with GuestClient(addresses) as guest:
            try:
                await guest.agent(LOOK_S)
                proof = await guest.proof(LOOK_S * 6)
            except FaultError:
                assert machine.is_alive, "the machine ended while it booted"
                await asyncio.sleep(RETRY_S)
                continue
            assert proof.screen_is_drawn
            await look(guest)
            return machine


async def loadvm(machine: Machine) -> None:
    """Go back to the snapshot; clock, entropy, proof and screenshot as after a fork."""
    await monitor(machine, "loadvm fresh")
    async with GuestClient(await forwarded(machine)) as guest:
        boot_id = uuid.uuid4().hex
        await guest.after_fork(boot_id, DEADLINE_S)
        assert (await guest.proof(DEADLINE_S)).boot_id == boot_id
        await look(guest)


async def monitor(machine: Machine, line: str) -> None:
    """Carry out one line of the human monitor, which says nothing where all went well."""
    said = await machine.execute("human-monitor-command", **{"command-line": line})
    assert not said, said


async def forwarded(machine: Machine) -> GuestAddresses:
    """Return the addresses of `machine`."""
    ports = await machine.forwarded_ports()
    server, chromium, vlc, vnc = (ports[port] for port in GUEST_PORTS)
    return GuestAddresses(LOOPBACK, server, chromium, vlc, vnc)


async def look(guest: GuestClient) -> None:
    """Take a screenshot and decode it."""
    with Image.open(io.BytesIO(await guest.screenshot(DEADLINE_S))) as image:
        image.load()


def qemu_pss() -> tuple[int, int]:
    """Return the memory of this process's machines, and the guests' RAM in it; shared pages are divided."""
    maps = [mapped for child in psutil.Process().children() for mapped in child.memory_maps()]
    return sum(mapped.pss for mapped in maps), sum(mapped.pss for mapped in maps if mapped.path.endswith("/ram"))


async def timed(call: Callable[[], Awaitable[None]]) -> float:
    """Return the seconds that `call` takes."""
    began = time.monotonic()
    await call()
    return time.monotonic() - began


def ms(seconds: list[float]) -> float:
    """Return the median in ms."""
    return round(statistics.median(seconds) * 1000, 1)


def mib(size_bytes: float) -> float:
    """Return MiB."""
    return round(size_bytes / 2**20, 1)


if __name__ == "__main__":
    asyncio.run(main())
