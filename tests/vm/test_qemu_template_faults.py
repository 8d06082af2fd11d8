"""Templates that were changed on the disk under the machines that run over them, and machines of another shape.

Also disks that are full while a template is made. Each test has a store of its own; where it begins with a template,
that is a copy of the one that the other tests fork.
"""

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.desktops.base import DesktopState, TaskState
from osworld_envpod.desktops.qemu import QemuSettings
from osworld_envpod.desktops.qemu.files import copy_sparse, sha256
from osworld_envpod.desktops.qemu.settings import OWN_MEMORY_MIB
from osworld_envpod.desktops.qemu.template import DRAFT_PREFIX, PARTS
from small_disk import fill, give_room, small_disk
from vm_fixtures import (
    COMMAND_DEADLINE_S,
    VirtualMachine,
    listening_ports,
    machine_of,
    nothing,
    qemu_processes,
    virtual_machine,
)
from waiting import wait_for

pytestmark = pytest.mark.timeout(600)

MADE_AGAIN_S = 300.0
"""For a reset that boots a template: 30 s under emulation on an idle machine."""

LEFT_BYTES = 4096
LOST_DEADLINE_S = 30.0

DISK_BYTES = 1536 << 20
"""Holds a template, all of its RAM included, and what its guest writes while it boots."""

BOOTING_RAM_BYTES = 100 << 20
"""Of a guest that has begun to boot: it touches four times as much before its desktop is drawn."""

DISK_ROOM_BYTES = 256 << 20


async def _copied(store: Path, run_dir: Path) -> Path:
    """Copy the template of all tests to `store`, and return the copy."""
    async with virtual_machine(run_dir) as machine:
        source = machine.desktop.template.folder
        target = store / source.name
        target.mkdir(parents=True)
        for path in source.iterdir():
            await asyncio.to_thread(copy_sparse if path.name == "ram" else shutil.copyfile, path, target / path.name)
    return target


async def _digests(folder: Path) -> list[str]:
    return [await asyncio.to_thread(sha256, folder / name) for name in PARTS]


async def _truncate(machine: VirtualMachine) -> None:
    """Truncate the RAM of the machine's template, which is the end of the fork that runs over it."""
    os.truncate(machine.desktop.template.part("ram"), LEFT_BYTES)
    await wait_for(lambda: machine.desktop.state is DesktopState.FAILED, LOST_DEADLINE_S, "the end of the fork")


async def _revert(machine: VirtualMachine) -> None:
    await machine.guest.close()
    await machine.desktop.revert(MADE_AGAIN_S)
    assert machine.desktop.state is DesktopState.READY


async def _fill_once(store: Path, is_time: Callable[[Path], bool]) -> None:
    """Fill the disk of `store` once `is_time` holds for a folder in which a template is made."""
    await wait_for(lambda: any(map(is_time, store.glob(f"{DRAFT_PREFIX}*"))), MADE_AGAIN_S, "a boot")
    await asyncio.to_thread(fill, store)


def _boots(draft: Path) -> bool:
    ram = draft / "ram"
    return ram.exists() and ram.stat().st_blocks * 512 > BOOTING_RAM_BYTES


def _has_all_room_but_for_its_state(draft: Path) -> bool:
    """Give the guest that boots in `draft` all the room that its memory and disk may want."""
    ram, disk = draft / "ram", draft / "disk.qcow2"
    if not ram.exists() or ram.stat().st_size < OWN_MEMORY_MIB << 20:
        return False
    for path, size_bytes in ((ram, OWN_MEMORY_MIB << 20), (disk, DISK_ROOM_BYTES), (draft / "console", 1 << 20)):
        give_room(path, size_bytes)
    return True


async def _refused(machine: VirtualMachine, store: Path, is_time: Callable[[Path], bool]) -> None:
    """Revert the machine, which makes a template in `store`, on a disk that is full from when `is_time` holds."""
    filling = asyncio.create_task(_fill_once(store, is_time))
    began = time.monotonic()
    with pytest.raises(FaultError) as caught:
        await machine.desktop.revert(MADE_AGAIN_S)
    assert time.monotonic() - began < MADE_AGAIN_S
    await filling
    assert caught.value.fault.reason is FaultReason.DISK_FULL, caught.value.fault
    assert machine.desktop.state is DesktopState.FAILED
    assert (qemu_processes(), listening_ports()) == ([], set())
    assert [path.name for path in store.iterdir() if path.is_dir()] == []
    (store / "fill").unlink()


async def test_a_template_that_is_truncated_is_made_again_in_the_first_reset_that_has_room_for_it(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path_factory.mktemp("t")
    with small_disk(DISK_BYTES) as disk:
        store = disk / "t"
        template = await _copied(store, place / "run")
        async with machine_of(QemuSettings(run_dir=place / "run", template_dir=store, spares=1)) as machine:
            await wait_for(lambda: len(listening_ports()) == 8, COMMAND_DEADLINE_S, "the ports of a spare")
            await machine.output("touch ~/marker")
            await _truncate(machine)
            assert "QEMU ended by itself" in caplog.text
            await machine.guest.close()
            await _refused(machine, store, _boots)
            await _revert(machine)
            assert machine.desktop.template.folder == template
            assert template.joinpath("ram").stat().st_size == OWN_MEMORY_MIB << 20
            await machine.revert()
            assert (await machine.run("test -e ~/marker")).returncode == 1
            await wait_for(lambda: len(listening_ports()) == 8, COMMAND_DEADLINE_S, "the ports of a spare")
            assert len(qemu_processes()) == 2
        assert (qemu_processes(), listening_ports()) == ([], set())


@pytest.mark.long  # two boots: two minutes
async def test_a_template_that_cannot_be_saved_is_made_again_in_the_first_reset_that_has_room_for_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("t")
    with small_disk(DISK_BYTES) as disk:
        store = disk / "t"
        await _copied(store, place / "run")
        async with machine_of(QemuSettings(run_dir=place / "run", template_dir=store, spares=0)) as machine:
            await machine.output("touch ~/marker")
            await _truncate(machine)
            await machine.guest.close()
            await _refused(machine, store, _has_all_room_but_for_its_state)
            await _revert(machine)
            await machine.revert()
            assert (await machine.run("test -e ~/marker")).returncode == 1
            assert len(qemu_processes()) == 1
        assert (qemu_processes(), listening_ports()) == ([], set())


@pytest.mark.long  # two boots: three minutes and more
async def test_a_machine_of_another_shape_has_a_template_of_its_own_and_makes_it_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("t")
    other = await _copied(place / "t", place / "run")
    before = await _digests(other)
    settings = QemuSettings(
        run_dir=place / "run", template_dir=place / "t", memory_mib=768, spares=0,
        snapshot_dir=place / "s",
    )  # fmt: skip
    async with machine_of(settings) as machine:
        own = machine.desktop.template.folder
        assert own != other
        assert sorted(path.name for path in (place / "t").iterdir() if path.is_dir()) == sorted([own.name, other.name])
        await _truncate(machine)
        assert await machine.desktop.revert_to_task("a", nothing, MADE_AGAIN_S) is TaskState.NONE
        await _revert(machine)
        assert machine.desktop.template.folder == own
        assert len(qemu_processes()) == 1
        await machine.revert()
        assert 600 < int(await machine.output("awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo")) < 768
    assert (qemu_processes(), listening_ports()) == ([], set())
    assert await _digests(other) == before
