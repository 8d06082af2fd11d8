"""Whether KVM is used, by real processes of a QEMU that a script stands in for. The vm rung shows QEMU's own proof."""

import contextlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from osworld_contract.faults import FaultError
from osworld_envpod.desktops.qemu.accelerator import (
    FAILURE_LAPSES_S,
    PROOF_ATTEMPTS,
    PROOF_MARK,
    KvmTrial,
    choose_accelerator,
    kvm_proof,
)
from osworld_envpod.desktops.qemu.argv import QEMU
from osworld_envpod.desktops.qemu.files import exclusive
from osworld_envpod.desktops.qemu.settings import Accelerator
from waiting import wait_until

STARTS = 3
ENDS_S = 60.0

SCRIPT = f"""#!/bin/sh
cd "${{0%/*}}" && echo boot >>boots
while [ -e wait ]; do sleep 0.05; done
if [ -e fail ]; then
    [ "$(cat fail)" = once ] && rm fail
    echo "no KVM today"; exit 1
fi
echo "[    1.0] {PROOF_MARK.decode()}"
"""

CHOOSE = """
import asyncio, sys
from pathlib import Path
from osworld_envpod.desktops.qemu.accelerator import KvmTrial, choose_accelerator
from osworld_envpod.desktops.qemu.settings import Accelerator
kernel, folder, device = map(Path, sys.argv[1:])
print("begins", flush=True)
print(asyncio.run(choose_accelerator(Accelerator.AUTO, KvmTrial(kernel, "QEMU 7", folder, device))))
"""


class StandIn:
    """QEMU's stand-in in a folder of the PATH: counts its boots, waits or fails as files beside it say."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        program = folder / QEMU
        program.write_text(SCRIPT)
        program.chmod(0o755)

    @property
    def boots(self) -> int:
        noted = self._folder / "boots"
        return len(noted.read_text().splitlines()) if noted.exists() else 0

    def say(self, word: str, content: str = "") -> None:
        (self._folder / word).write_text(content)

    def unsay(self, word: str) -> None:
        (self._folder / word).unlink()


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return StandIn(folder)


@pytest.fixture
def trial(tmp_path: Path) -> KvmTrial:
    device, folder = tmp_path / "kvm", tmp_path / "templates"
    device.touch()
    folder.mkdir()
    return KvmTrial(tmp_path / "vmlinuz", "QEMU 7", folder, device)


def test_env_servers_that_start_at_once_boot_one_kernel(qemu: StandIn, trial: KvmTrial) -> None:
    qemu.say("wait")
    argv = [sys.executable, "-c", CHOOSE, str(trial.kernel), str(trial.folder), str(trial.device)]
    with contextlib.ExitStack() as running:
        starts = [
            running.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)) for _ in range(STARTS)
        ]
        outputs = [start.stdout for start in starts if start.stdout is not None]
        assert [output.readline() for output in outputs] == ["begins\n"] * STARTS
        wait_until(lambda: qemu.boots, ENDS_S, "a boot")
        qemu.unsay("wait")
        assert [output.read() for output in outputs] == ["kvm\n"] * STARTS
    assert qemu.boots == 1


async def test_one_failure_does_not_make_the_machine_emulate(qemu: StandIn, trial: KvmTrial) -> None:
    qemu.say("fail", "once")
    assert await choose_accelerator(Accelerator.AUTO, trial) is Accelerator.KVM
    assert qemu.boots == 2


async def test_a_failure_is_kept_until_it_lapses_and_a_success_for_good(qemu: StandIn, trial: KvmTrial) -> None:
    qemu.say("fail")
    assert await choose_accelerator(Accelerator.AUTO, trial) is Accelerator.TCG
    with pytest.raises(FaultError, match="does not work here: QEMU ended: no KVM today"):
        await choose_accelerator(Accelerator.KVM, trial)
    assert qemu.boots == PROOF_ATTEMPTS
    qemu.unsay("fail")
    _age(trial, FAILURE_LAPSES_S - ENDS_S)
    assert await choose_accelerator(Accelerator.AUTO, trial) is Accelerator.TCG
    _age(trial, ENDS_S)
    assert await choose_accelerator(Accelerator.AUTO, trial) is Accelerator.KVM
    assert qemu.boots == PROOF_ATTEMPTS + 1
    qemu.say("fail")
    _age(trial, 2 * FAILURE_LAPSES_S)
    assert await choose_accelerator(Accelerator.KVM, trial) is Accelerator.KVM
    assert await choose_accelerator(Accelerator.AUTO, replace(trial, qemu_version="QEMU 8")) is Accelerator.TCG


async def test_who_asks_for_a_boot_gets_one_and_what_it_shows_is_kept(qemu: StandIn, trial: KvmTrial) -> None:
    qemu.say("fail")
    assert not (await kvm_proof(trial)).works
    qemu.unsay("fail")
    assert (await kvm_proof(trial, is_fresh=True)).works
    assert (await kvm_proof(trial)).works
    assert qemu.boots == PROOF_ATTEMPTS + 1


async def test_a_proof_that_another_server_does_not_end_is_not_awaited_for_ever_nor_kept(
    qemu: StandIn, trial: KvmTrial
) -> None:
    async with exclusive(trial.folder / "kvm-proof.lock"):
        proof = await kvm_proof(replace(trial, turn_deadline_s=0.3))
    assert (proof.works, proof.reason) == (False, "the proof that another env server makes did not end in 0.3 s")
    assert await choose_accelerator(Accelerator.AUTO, trial) is Accelerator.KVM
    assert qemu.boots == 1


async def test_a_device_that_is_closed_is_looked_at_anew(qemu: StandIn, trial: KvmTrial) -> None:
    trial.device.unlink()
    assert await choose_accelerator(Accelerator.AUTO, trial) is Accelerator.TCG
    trial.device.touch()
    assert await choose_accelerator(Accelerator.AUTO, trial) is Accelerator.KVM
    assert qemu.boots == 1


def _age(trial: KvmTrial, seconds: float) -> None:
    """Make what is kept older."""
    kept = json.loads(trial.kept.read_text())
    trial.kept.write_text(json.dumps(kept | {"made_at_s": kept["made_at_s"] - seconds}))
