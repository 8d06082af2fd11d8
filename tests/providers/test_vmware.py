"""The vmware provider: desktop-env's own code over a vmrun that records, a small guest at the machine's address."""

import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from osworld_contract.faults import FaultError, FaultReason
from osworld_env.ports import free_port
from osworld_envpod.desktops.base import DesktopState
from osworld_envpod.desktops.osworld import BootedDesktop
from osworld_envpod.desktops.osworld.vmware import VmwareBooter, VmwareSettings
from osworld_envpod.osworld_guest import OsworldGuestClient
from providers.cloud import GUESTS, Guests, guests
from providers.conftest import BOOT_S, ENDED_S
from server_process import ServerProcess, clean_environment
from task_parts import EVALUATOR, execute
from waiting import wait_for

VMRUN = Path(__file__).with_name("vmrun")


@dataclass(frozen=True)
class Fusion:
    """The recording vmrun and its machine."""

    folder: Path

    @property
    def vm(self) -> Path:
        return self.folder / "Ubuntu0.vmx"

    @property
    def machine(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "machine.json").read_text())
        return found

    def be(self, **changes: object) -> None:
        """Change the machine behind everybody's back."""
        (self.folder / "machine.json").write_text(json.dumps(self.machine | changes))

    def asked(self) -> list[str]:
        """Return the commands in their order, without looks, and forget them."""
        path = self.folder / "asked"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("")
        assert all(line[:2] == ["-T", "ws"] for line in lines)
        return [" ".join(line[2:]).replace(str(self.vm), "VM") for line in lines if line[2] != "list"]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    """A guest at the machine's address."""
    with guests(tmp_path_factory.mktemp("guest")) as there:
        yield there


@pytest.fixture
def fusion(tmp_path: Path, guest: Guests, monkeypatch: pytest.MonkeyPatch) -> Fusion:
    """A vmrun on PATH with one machine, off, that has desktop-env's snapshot."""
    there = Fusion(tmp_path / "vmrun")
    (there.folder / "bin").mkdir(parents=True)
    there.vm.touch()
    (there.folder / "asked").touch()
    machine = {"path": str(there.vm), "power": "off", "snapshots": ["init_state"], "address": str(GUESTS[1])}
    (there.folder / "machine.json").write_text(json.dumps(machine))
    # The child gets no variable of the env server's beyond its list, so the program is given its folder here.
    program = there.folder / "bin" / "vmrun"
    program.write_text(f'#!/bin/sh\nVMRUN_STATE="{there.folder}" exec /usr/bin/python3 "{VMRUN}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return there


@contextlib.asynccontextmanager
async def desktop(chosen: VmwareSettings, spares: int = 1, **more: Any) -> AsyncIterator[BootedDesktop]:
    running = BootedDesktop(VmwareBooter(chosen), spares, **more)
    await running.start(BOOT_S)
    try:
        yield running
    finally:
        await running.stop(ENDED_S)


async def test_each_revert_is_one_to_the_snapshot(fusion: Fusion) -> None:
    begin = ["listSnapshots VM", "revertToSnapshot VM init_state", "start VM nogui", "getGuestIPAddress VM -wait"]
    async with desktop(VmwareSettings(vm=fusion.vm)) as running:
        assert fusion.asked() == begin
        async with OsworldGuestClient(running.addresses) as client:
            assert (await client.execute("echo on", 30, shell=True)).output == "on\n"
        await running.pause(10)
        assert (running.state, fusion.machine["power"]) == (DesktopState.PAUSED, "paused")
        await running.resume(10)
        assert fusion.asked() == ["pause VM", "unpause VM"]
        await running.revert(BOOT_S)
        assert fusion.asked() == ["stop VM hard", *begin]
    assert fusion.asked() == ["stop VM hard"]
    assert fusion.machine["power"] == "off"


async def test_a_machine_that_is_switched_off_fails_the_desktop(fusion: Fusion) -> None:
    async with desktop(VmwareSettings(vm=fusion.vm)) as running:
        fusion.be(power="off")
        await wait_for(lambda: running.state is DesktopState.FAILED, ENDED_S, "a failed desktop")
        await running.revert(BOOT_S)
        assert fusion.machine["power"] == "on"


async def test_the_clock_of_a_snapshot_is_set_and_a_right_one_left_alone(fusion: Fusion, guest: Guests) -> None:
    programs = guest.home / "bin"
    noted = guest.home / "sudo"
    programs.joinpath("date").write_text("#!/bin/sh\necho 1600000000\n")
    programs.joinpath("sudo").write_text(f'#!/bin/sh\nread password\necho "$password $*" > {noted}\n')
    for name in ("date", "sudo"):
        programs.joinpath(name).chmod(0o755)
    try:
        async with desktop(VmwareSettings(vm=fusion.vm, password="pa'ss word")):
            password, _, command = noted.read_text().strip().rpartition(" -S -p  ")
            assert password == "pa'ss word"
            assert command.startswith("date -s @")
        programs.joinpath("sudo").write_text("#!/bin/sh\necho no >&2\nexit 1\n")
        with pytest.raises(FaultError, match="clock could not be set: no") as refused:
            async with desktop(VmwareSettings(vm=fusion.vm)):
                pass
        assert refused.value.fault.reason is FaultReason.DESKTOP_UNCLEAN
        assert fusion.machine["power"] == "off"
    finally:
        for name in ("date", "sudo"):
            programs.joinpath(name).unlink()
    async with desktop(VmwareSettings(vm=fusion.vm)):
        pass


async def test_a_clock_that_a_pause_left_behind_is_stepped(fusion: Fusion, guest: Guests) -> None:
    programs, noted = guest.home / "bin", guest.home / "stepped"
    async with desktop(VmwareSettings(vm=fusion.vm), password="pa'ss word") as running:
        await running.correct_clock(10)
        assert not noted.exists(), "a right clock is left alone"
        await running.pause(10)
        await running.resume(10)
        programs.joinpath("date").write_text(f"#!/bin/sh\n[ -e {noted} ] && exec /bin/date $*\necho 1600000000\n")
        programs.joinpath("sudo").write_text(f'#!/bin/sh\nread password\necho "$password $*" > {noted}\n')
        try:
            for name in ("date", "sudo"):
                programs.joinpath(name).chmod(0o755)
            await running.correct_clock(10)
            password, _, command = noted.read_text().strip().rpartition(" -S -p  ")
            assert (password, command.startswith("date -s @")) == ("pa'ss word", True)
        finally:
            for name in ("date", "sudo"):
                programs.joinpath(name).unlink()
            noted.unlink(missing_ok=True)


async def test_what_is_missing_is_one_sentence(fusion: Fusion, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = VmwareSettings(vm=fusion.vm)
    for changed, words in (
        (replace(chosen, vm=Path("/nowhere.vmx")), "there is no virtual machine /nowhere.vmx"),
        (replace(chosen, snapshot="clean"), "has no snapshot clean: start it, log in"),
    ):
        with pytest.raises(FaultError, match=words):
            async with desktop(changed):
                pass
    fusion.be(fails="listSnapshots")
    with pytest.raises(FaultError, match="vmrun listSnapshots failed: Error: listSnapshots is not possible now"):
        async with desktop(chosen):
            pass
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert shutil.which("vmrun") is None
    with pytest.raises(FaultError, match="vmrun is not on PATH: install VMware Fusion"):
        async with desktop(chosen):
            pass


async def test_a_machine_has_one_env_server(fusion: Fusion) -> None:
    chosen = VmwareSettings(vm=fusion.vm)
    async with desktop(chosen):
        before = fusion.asked()
        with pytest.raises(FaultError, match="another env server plays on"):
            async with desktop(chosen):
                pass
        assert (before != [], fusion.asked()) == (True, [])
    async with desktop(chosen):
        pass


async def test_a_vmrun_that_never_starts_the_machine_ends_by_the_deadline(fusion: Fusion) -> None:
    fusion.be(fails="start")  # desktop-env tries again for ever
    with pytest.raises(FaultError, match="showed no screen in 8 s"):
        async with desktop(VmwareSettings(vm=fusion.vm, boot_deadline_s=8.0)):
            pass


def test_an_episode_is_played_and_scored_only_with_the_time_of_now(
    fusion: Fusion, guest: Guests, tmp_path: Path
) -> None:
    port = free_port()
    task = {"instruction": "Say yes.", "config": [execute("true")], "evaluator": EVALUATOR}
    variables = {"PROVIDER": "vmware", "OSWORLD_VMWARE_VM": str(fusion.vm), "OSWORLD_PORT": str(port)}
    date = guest.home / "bin" / "date"
    with ServerProcess("osworld_envpod", tmp_path, clean_environment(**variables), port) as running:
        running.wait_ready()
        reply = httpx.post(f"{running.url}/env/reset", json={"task_config": task}, timeout=200)
        assert reply.status_code == 200, reply.text[:500]
        date.write_text("#!/bin/sh\necho 1600000000\n")
        date.chmod(0o755)
        try:
            reply = httpx.post(f"{running.url}/env/evaluate", json={}, timeout=200)
        finally:
            date.unlink()
        assert (reply.status_code, reply.json()["fault"]["reason"]) == (503, "action_failed"), reply.text[:500]
        assert "could not be set" in reply.json()["fault"]["message"]
        assert httpx.post(f"{running.url}/env/evaluate", json={}, timeout=200).json() == 1.0
    assert fusion.machine["power"] == "off"
