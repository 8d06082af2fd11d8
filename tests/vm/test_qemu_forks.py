"""Many forks of one template in a row: the template, this process and the machine stay as they were.

``make vm`` runs the short form, ``make long`` the long one.
"""

import asyncio
from pathlib import Path

import psutil
import pytest

from osworld_envpod.desktops.qemu.files import sha256
from osworld_envpod.desktops.qemu.template import PARTS, Template
from vm_fixtures import COMMAND_DEADLINE_S, TEST_TIMEOUT_S, listening_ports, qemu_processes, virtual_machine
from waiting import wait_for

pytestmark = pytest.mark.timeout(TEST_TIMEOUT_S)

LONG = (pytest.mark.long, pytest.mark.timeout(3600))
WARM_UP_FORKS = 5
"""Imports, the thread pool and the allocator's arenas are there after them. A guess with room."""

FILES_SPARE = 8
"""Open files that Python itself may add: threads of its pool, the watcher of child processes. Less than one a fork."""

MEMORY_SPARE_BYTES = 40 * 2**20
"""What the allocator may keep. A guess with room; a screenshot kept for each fork alone would be more."""

END_DEADLINE_S = 30.0


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=LONG)])
async def test_forks_in_a_row_leave_template_process_and_machine_as_they_were(tmp_path: Path, count: int) -> None:
    files = _open_files()
    async with virtual_machine(tmp_path, spares=1) as machine:
        template = machine.desktop.template
        frozen, names = await asyncio.to_thread(_digests, template), _names(template)
        boot_ids, memory = set(), []
        for number in range(count):
            boot_ids.add((await machine.guest.agent(COMMAND_DEADLINE_S)).boot_id)
            await machine.output("echo marker | tee ~/marker /dev/shm/marker; sync")
            await machine.revert()
            assert (await machine.run("ls ~/marker /dev/shm/marker 2>/dev/null")).output == ""
            if number >= WARM_UP_FORKS:
                memory.append(psutil.Process().memory_full_info().uss)
        assert len(boot_ids) == count
        assert await asyncio.to_thread(_digests, template) == frozen
        assert _names(template) == names
    assert (qemu_processes(), listening_ports(), list(tmp_path.iterdir())) == ([], set(), [])
    assert memory[-1] - memory[0] < MEMORY_SPARE_BYTES
    await wait_for(lambda: _open_files() <= files + FILES_SPARE, END_DEADLINE_S, f"{files} open files")


def _digests(template: Template) -> dict[str, str]:
    return {name: sha256(template.part(name)) for name in PARTS}


def _names(template: Template) -> set[str]:
    return {path.name for path in template.folder.iterdir()}


def _open_files() -> int:
    return psutil.Process().num_fds()
