"""Which accelerator works here. A /dev/kvm that opens proves nothing: only a kernel that boots under it does.

Nested virtualization without the hardware's support opens, answers every ioctl, and runs no guest.
"""

import asyncio
import contextlib
import logging
import os
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from osworld_contract.faults import FaultReason, fault_error
from osworld_envpod.desktops.qemu.argv import proof_argv
from osworld_envpod.desktops.qemu.files import exclusive
from osworld_envpod.desktops.qemu.settings import Accelerator

KVM_DEVICE: Final = Path("/dev/kvm")
PROOF_LOCK: Final = "kvm-proof.lock"
HOST_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
PROOF_DEADLINE_S: Final = 20.0
"""A kernel without a disk panics after 2 s under KVM. A guess with room."""

PROOF_ATTEMPTS: Final = 2
"""A machine on which many desktops start can be too slow once, and what falls back then stays 10x slower. A guess."""

FAILURE_LAPSES_S: Final = 600.0
"""A module is loaded anew and a busy machine comes to rest without a boot of it. A guess: 40 s of trying in ten
minutes, by one env server of the machine, where KVM does not work."""

TURN_DEADLINE_S: Final = 60.0
"""For the proof that another env server of this machine makes: its attempts, and room."""

PROOF_MARK: Final = b"Kernel panic - not syncing: VFS"
"""The kernel's last words where all went well: it came up and found no root file system."""

logger = logging.getLogger(__name__)


class KvmProof(BaseModel):
    """What the proof boot showed: kept until the machine or QEMU changes, and a failure for `FAILURE_LAPSES_S`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host_boot_id: str
    qemu_version: str
    kernel: str
    made_at_s: float
    """On this machine's monotonic clock, which all its processes share."""
    works: bool
    reason: str


@dataclass(frozen=True)
class KvmTrial:
    """A proof that is to be had: of what, and where it is kept."""

    kernel: Path
    qemu_version: str
    folder: Path
    device: Path = KVM_DEVICE
    turn_deadline_s: float = TURN_DEADLINE_S

    @property
    def kept(self) -> Path:
        """Return the file of the proof."""
        return self.folder / "kvm-proof.json"

    def proof(self, reason: str) -> KvmProof:
        """Return the proof that `reason` speaks against KVM; empty: nothing does."""
        return KvmProof(
            host_boot_id=HOST_BOOT_ID.read_text().strip(), qemu_version=self.qemu_version, kernel=str(self.kernel),
            made_at_s=time.monotonic(), works=not reason, reason=reason,
        )  # fmt: skip

    def found(self) -> KvmProof | None:
        """Return the proof that is kept, where it still counts."""
        try:
            proof = KvmProof.model_validate_json(self.kept.read_bytes())
        except (OSError, ValidationError):
            return None
        wanted = (HOST_BOOT_ID.read_text().strip(), self.qemu_version, str(self.kernel))
        has_lapsed = not proof.works and time.monotonic() - proof.made_at_s >= FAILURE_LAPSES_S
        if has_lapsed or (proof.host_boot_id, proof.qemu_version, proof.kernel) != wanted:
            return None
        return proof


async def choose_accelerator(wanted: Accelerator, trial: KvmTrial | None) -> Accelerator:
    """Return KVM or TCG, by `kvm_proof`.

    Without a `trial` there is no kernel to boot: a device that opens is taken then, and the log says so.

    Raises:
        FaultError: ``desktop_start_failed``: KVM was asked for by name and does not work.
    """
    if wanted is Accelerator.TCG:
        return wanted
    if trial is None:
        reason = _closed_reason(KVM_DEVICE)
        if not reason:
            logger.warning(
                "KVM is used UNPROVEN: there is no kernel to try it with (`python -m osworld_guest.image` makes one)."
                " Where no guest comes up, set OSWORLD_QEMU_ACCELERATOR=tcg"
            )
    else:
        reason = (await kvm_proof(trial)).reason
    if not reason:
        return Accelerator.KVM
    if wanted is Accelerator.KVM:
        raise fault_error(FaultReason.DESKTOP_START_FAILED, f"KVM does not work here: {reason}")
    logger.warning("KVM does not work here: %s. Virtual machines run in SOFTWARE EMULATION, 10x slower", reason)
    return Accelerator.TCG


async def kvm_proof(trial: KvmTrial, *, is_fresh: bool = False) -> KvmProof:
    """Return the proof for this machine: the one that is kept, else by a boot, of which there is one at a time.

    With `is_fresh` a kernel is booted whatever is kept. Not kept is why no kernel could be booted.
    """
    if reason := _closed_reason(trial.device):
        return trial.proof(reason)
    async with contextlib.AsyncExitStack() as turn:
        try:
            async with asyncio.timeout(trial.turn_deadline_s):
                await turn.enter_async_context(exclusive(trial.folder / PROOF_LOCK))
        except TimeoutError:
            return trial.proof(f"the proof that another env server makes did not end in {trial.turn_deadline_s:g} s")
        if not is_fresh and (kept := trial.found()) is not None:
            return kept
        proof = trial.proof(await _tried(trial.kernel))
        draft = trial.folder / "kvm-proof.draft"
        draft.write_text(proof.model_dump_json())
        draft.replace(trial.kept)
        return proof


async def fresh_reason(kernel: Path) -> str:
    """Return why KVM cannot be used, by a boot of `kernel` now; empty where it can.

    Raises:
        OSError: QEMU is not installed.
    """
    return _closed_reason(KVM_DEVICE) or await _boot_under_kvm(kernel)


def _closed_reason(device: Path) -> str:
    """Return why the device cannot be opened; empty where it can."""
    if os.access(device, os.R_OK | os.W_OK):
        return ""
    return f"{device} is {'not readable for this user' if device.exists() else 'missing'}"


async def _tried(kernel: Path) -> str:
    """Return why no attempt showed that KVM works; empty where one did."""
    reason = ""
    for attempt in range(1, PROOF_ATTEMPTS + 1):
        if not (reason := await _boot_under_kvm(kernel)):
            break
        logger.info("attempt %d of %d to boot a kernel under KVM: %s", attempt, PROOF_ATTEMPTS, reason)
    return reason


async def _boot_under_kvm(kernel: Path) -> str:
    """Return why KVM cannot be used; empty where a kernel ran under it."""
    process = await asyncio.create_subprocess_exec(*proof_argv(kernel), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
    assert process.stdout is not None
    seen = b""
    try:
        async with asyncio.timeout(PROOF_DEADLINE_S):
            while chunk := await process.stdout.read(4096):
                seen += chunk
                if PROOF_MARK in seen:
                    return ""
    except TimeoutError:
        return f"a kernel did not boot under it in {PROOF_DEADLINE_S:g} s"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    last = seen.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
    return f"QEMU ended: {last[0][:300]}"
