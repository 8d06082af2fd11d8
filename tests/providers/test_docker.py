"""The docker provider: desktop-env's own code, a real engine, a small image that speaks the guest wire."""

import contextlib
import io
import json
import logging
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from image_rig import image_server, qcow2_disk, sha256
from osworld_contract.actions import Call
from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.desktops.base import DesktopState
from osworld_envpod.desktops.osworld import BootedDesktop
from osworld_envpod.desktops.osworld.docker import DockerBooter, DockerSettings
from osworld_envpod.images import ImageRequest, parse_address
from osworld_envpod.osworld_guest import OsworldGuestClient
from osworld_envpod.tasks.settings import worker_python
from process_looks import words_of
from providers.conftest import BOOT_S, ENDED_S, GuestDisk
from providers.engine import IMAGE, Engine
from waiting import wait_for

pytestmark = pytest.mark.usefixtures("own_place")

PYTHON = worker_python()
"""Of this machine's cache, also where a test has one of its own."""


def settings(own: GuestDisk | None = None, **changes: Any) -> DockerSettings:
    request = ImageRequest(parse_address(str(own.path))) if own else None
    return DockerSettings(**({"image": IMAGE, "disk": request, "accelerator": "tcg", "python": PYTHON} | changes))


@contextlib.asynccontextmanager
async def desktop(chosen: DockerSettings, spares: int = 0) -> AsyncIterator[BootedDesktop]:
    running = BootedDesktop(DockerBooter(chosen), spares)
    await running.start(BOOT_S)
    try:
        yield running
    finally:
        await running.stop(ENDED_S)


async def output(running: BootedDesktop, script: str) -> str:
    async with OsworldGuestClient(running.addresses) as guest:
        return (await guest.execute(script, 30, shell=True)).output


async def test_a_revert_is_another_machine_and_the_stop_leaves_nothing(docker_engine: Engine, disk: GuestDisk) -> None:
    async with desktop(settings(disk), spares=1) as running:
        first = running.machine_id
        assert (running.facts.accelerator, running.facts.can_pause, running.facts.network) == ("tcg", True, "open")
        await output(running, "touch /tmp/marker")
        assert "CPU_CORES=4" in await output(running, "printenv; touch /storage/marker")
        await running.revert(BOOT_S)
        assert running.machine_id != first
        assert await output(running, "ls /tmp/marker /storage/marker 2>/dev/null; echo end") == "end\n"
        await wait_for(lambda: first not in docker_engine.containers(), ENDED_S, "the first container's end")
    assert docker_engine.containers() == []
    assert docker_engine.volumes() == []
    assert [child for child in psutil.Process().children() if "osworld/child" in words_of(child)] == []


async def test_the_next_machine_boots_while_one_is_played_on(docker_engine: Engine, disk: GuestDisk) -> None:
    async with desktop(settings(disk), spares=1) as running:
        await wait_for(lambda: len(docker_engine.containers()) == 2, BOOT_S, "a second container")
        (spare,) = set(docker_engine.containers()) - {running.machine_id}
        await running.revert(BOOT_S)
        assert running.machine_id == spare


async def test_a_pause_stops_the_container_and_its_guest_goes_on_afterwards(
    docker_engine: Engine, disk: GuestDisk
) -> None:
    async with desktop(settings(disk)) as running:
        await running.pause(10)
        await running.pause(10)
        assert (running.state, docker_engine.status(running.machine_id)) == (DesktopState.PAUSED, "paused")
        await running.resume(10)
        assert await output(running, "echo on") == "on\n"
        await running.pause(10)
        await running.revert(BOOT_S)
        assert await output(running, "echo on") == "on\n"


async def test_a_boot_goes_on_when_the_reset_has_given_up(docker_engine: Engine, disk: GuestDisk) -> None:
    async with desktop(settings(disk)) as running:
        disk.say(hold=True)
        with pytest.raises(FaultError) as refused:
            await running.revert(4)
        assert "still booting" in refused.value.fault.message
        assert refused.value.fault.retryable
        assert running.state is DesktopState.FAILED
        await wait_for(lambda: len(docker_engine.containers()) == 1, ENDED_S, "the booting container alone")
        (booting,) = docker_engine.containers()
        disk.say()
        await running.revert(BOOT_S)
        assert running.machine_id == booting


async def test_a_guest_that_ends_is_named_with_its_last_words(docker_engine: Engine, disk: GuestDisk) -> None:
    disk.say(exit=3)
    with pytest.raises(FaultError, match="ended with 3: the guest's kernel panics"):
        async with desktop(settings(disk)):
            pass
    assert docker_engine.containers() == []


async def test_a_container_that_ends_fails_the_desktop(docker_engine: Engine, disk: GuestDisk) -> None:
    async with desktop(settings(disk)) as running:
        docker_engine.docker("kill", running.machine_id)
        await wait_for(lambda: running.state is DesktopState.FAILED, ENDED_S, "a failed desktop")
        await running.revert(BOOT_S)
        assert await output(running, "echo on") == "on\n"


async def test_kvm_is_passed_in_and_given_up_where_no_guest_comes_up_under_it(
    docker_engine: Engine, disk: GuestDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSWORLD_CACHE_DIR", str(tmp_path / "c"))
    # Any device will do for the engine; the guest looks at what it is told.
    device = {"accelerator": "auto", "kvm_device": Path("/dev/zero")}
    async with desktop(settings(disk, **device)) as running:
        assert running.facts.accelerator == "kvm"
        assert docker_engine.devices(running.machine_id) == ["/dev/zero"]
    disk.say(needs_emulation=True)
    (tmp_path / "c" / "docker-kvm.json").unlink()
    async with desktop(settings(disk, kvm_boot_deadline_s=5.0, **device)) as running:
        assert running.facts.accelerator == "tcg"
        assert docker_engine.devices(running.machine_id) == []
        assert "KVM=N" in await output(running, "printenv")
    async with desktop(settings(disk, kvm_boot_deadline_s=3000.0, **device)) as running:
        assert running.facts.accelerator == "tcg", "it is remembered"


async def test_kvm_is_given_up_where_the_container_itself_refuses_it(
    docker_engine: Engine,
    disk: GuestDisk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("OSWORLD_CACHE_DIR", str(tmp_path / "c"))
    chosen = settings(disk, accelerator="auto", kvm_device=Path("/dev/zero"), kvm_boot_deadline_s=3000.0)
    disk.say(exit=3)
    with pytest.raises(FaultError, match="ended with 3: the guest's kernel panics"):
        async with desktop(chosen):
            pass
    assert not (tmp_path / "c" / "docker-kvm.json").exists(), "it ends without KVM, too"
    disk.say(exit_under_kvm=88)
    with pytest.raises(FaultError, match="ended with 88"):
        async with desktop(replace(chosen, accelerator="kvm")):
            pass
    async with desktop(chosen) as running:
        assert running.facts.accelerator == "tcg"
        assert docker_engine.devices(running.machine_id) == []
        assert "KVM=N" in await output(running, "printenv")
    assert "ended with 88: KVM acceleration not available. The next try is SOFTWARE EMULATION" in caplog.text
    disk.say()
    async with desktop(chosen) as running:
        assert running.facts.accelerator == "tcg", "it is remembered"


async def test_a_container_that_was_left_is_removed_and_one_in_use_is_not(
    docker_engine: Engine, disk: GuestDisk, tmp_path: Path
) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    label = ("--label", f"osworld-env.lock={lock}")
    docker_engine.docker("run", "-d", "--name", "left", *label, IMAGE, "sleep", "1000")
    docker_engine.docker(
        "run", "-d", "--name", "unseen", "--label", "osworld-env.lock=/nowhere", IMAGE, "sleep", "1000"
    )
    async with desktop(settings(disk)) as first, desktop(settings(disk)) as second:
        assert sorted(docker_engine.containers()) == sorted(["unseen", first.machine_id, second.machine_id])
        docker_engine.docker("kill", "unseen")
        await second.revert(BOOT_S)
        assert "unseen" not in docker_engine.containers(), "it runs no more"


async def test_calls_reach_pyautogui_as_data(disk: GuestDisk) -> None:
    async with desktop(settings(disk)) as running, OsworldGuestClient(running.addresses) as guest:
        quotes = "'); import os; os._exit(1) #"
        calls = [
            Call(name="click", args=(960.0, 540.0), kwargs={"button": "left"}),
            Call(name="write", args=(f"a<b{quotes}",), kwargs={"interval": 0.1}),
            Call(name="sleep", args=(0.01,)),
            Call(name="press", args=("<",)),
        ]
        await guest.run_calls(calls, 30)
        noted = [json.loads(line) for line in (await output(running, "cat /tmp/calls.jsonl")).splitlines()]
        assert noted == [
            ["click", [960.0, 540.0], {"button": "left"}, False],
            ["write", ["a"], {"interval": 0.1}, False],
            ["hotkey", ["shift", ","], {}, False],
            ["write", [f"b{quotes}"], {"interval": 0.1}, False],
            ["hotkey", ["shift", ","], {}, False],
        ]
        with pytest.raises(FaultError) as refused:
            await guest.run_calls([Call(name="dragTo", args=(1, 1))], 30)
        assert refused.value.fault.reason is FaultReason.ACTION_REFUSED
        assert "no button" in refused.value.fault.message
        with pytest.raises(FaultError) as unknown:
            await guest.run_calls([Call(name="screenshot")], 30)
        assert unknown.value.fault.reason is FaultReason.ACTION_REFUSED


async def test_osworlds_published_form_is_fetched_with_progress_and_boots(
    disk: GuestDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OSWORLD_CACHE_DIR", str(tmp_path / "c"))
    disk.path.unlink()
    caplog.set_level(logging.INFO)
    shown: list[tuple[int, int]] = []
    data, archive = qcow2_disk(), io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("Ubuntu.qcow2", data)
    async with image_server(archive.getvalue()) as server:
        request = ImageRequest(parse_address(f"{server.url}.zip"), sha256(archive.getvalue()))
        chosen = settings(show_image=lambda have, total: shown.append((have, total)), disk=request)
        async with desktop(chosen) as running:
            assert await output(running, "stat -c %s /System.qcow2") == f"{len(data)}\n"
            assert running.facts.image_digest == sha256(data)
    assert shown[-1] == (len(data), len(data))


async def test_an_image_that_cannot_be_had_is_one_sentence(disk: GuestDisk) -> None:
    with pytest.raises(FaultError) as refused:
        async with desktop(settings(disk, image="127.0.0.1:1/none:1")):
            pass
    assert refused.value.fault.reason is FaultReason.IMAGE_UNAVAILABLE
    assert "127.0.0.1:1/none:1" in refused.value.fault.message


async def test_an_engine_that_is_not_there_is_one_sentence(disk: GuestDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(FaultError, match="no Docker engine answers: start it"):
        async with desktop(settings(disk)):
            pass


async def test_a_user_without_rights_is_told_the_group(docker_engine: Engine, disk: GuestDisk, tmp_path: Path) -> None:
    closed = tmp_path / "python"
    closed.write_text(f'#!/bin/sh\nexec setpriv --reuid 65534 --clear-groups {PYTHON} "$@"\n')
    closed.chmod(0o755)
    with pytest.raises(FaultError, match="usermod -aG docker"):
        async with desktop(settings(disk, python=closed)):
            pass
