"""Fixtures of the vm rung: the image is built by ``make setup-vm``; the first test boots the template."""

import asyncio
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest

from vm_fixtures import VirtualMachine, disk_settings, machine_of, save, virtual_machine
from whole_disk import whole_disk

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let fixtures know whether their test has failed."""
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture
async def machine(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[VirtualMachine]:
    """A virtual machine without a spare; a failed test leaves its console and screen."""
    async with virtual_machine(tmp_path) as running:
        yield running
        if request.node.stash.get(FAILED, True):
            await save(running, tmp_path)


@pytest.fixture
async def disk_machine(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[VirtualMachine]:
    """As `machine`, on a whole disk that has OSWorld's paths and no agent."""
    folder = await asyncio.to_thread(whole_disk)
    async with machine_of(disk_settings(folder, tmp_path)) as running:
        yield running
        if request.node.stash.get(FAILED, True):
            await save(running, tmp_path)
