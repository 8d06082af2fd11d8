"""Which accelerator works here. A /dev/kvm that opens proves nothing: only a kernel that boots under it does.

Nested virtualization without the hardware's support opens, answers every ioctl, and runs no guest.
"""

import asyncio
import logging
import os
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from osworld_contract.faults import FaultReason, fault_error
from osworld_envpod.desktops.qemu.argv import proof_argv
from osworld_envpod.desktops.qemu.files import exclusive
from osworld_envpod.desktops.qemu.settings import Accelerator

KVM_DEVICE: Final = Path("/dev/kvm")
HOST_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
PROOF_DEADLINE_S: Final = 20.0
"""A kernel without a disk panics after 2 s under KVM. A guess with room."""

PROOF_MARK: Final = b"Kernel panic - not syncing: VFS"
"""The kernel's last words where all went well: it came up and found no root file system."""

logger = logging.getLogger(__name__)


class KvmProof(BaseModel):
    """What the proof boot showed, kept until the machine or QEMU changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host_boot_id: str
    qemu_version: str
    kernel: str
    works: bool
    reason: str


async def choose_accelerator(wanted: Accelerator, kernel: Path, qemu_version: str, folder: Path) -> Accelerator:
    """Return KVM or TCG; the proof boot runs once for each boot of this machine, and is kept in `folder`.

    Raises:
        FaultError: ``desktop_start_failed``: KVM was asked for by name and does not work.
    """
    if wanted is Accelerator.TCG:
        return wanted
    proof = await kvm_proof(kernel, qemu_version, folder)
    if proof.works:
        return Accelerator.KVM
    if wanted is Accelerator.KVM:
        raise fault_error(FaultReason.DESKTOP_START_FAILED, f"KVM does not work here: {proof.reason}")
    logger.warning("KVM does not work here: %s. Virtual machines run in SOFTWARE EMULATION, 10x slower", proof.reason)
    return Accelerator.TCG


async def kvm_proof(kernel: Path, qemu_version: str, folder: Path) -> KvmProof:
    """Return the proof for this machine, from `folder` or by a boot."""
    host_boot_id = HOST_BOOT_ID.read_text().strip()
    kept = folder / "kvm-proof.json"
    proof = _read(kept)
    wanted = (host_boot_id, qemu_version, str(kernel))
    if reason := _closed_reason():
        # Not kept: a group or a module is put right without a boot of this machine.
        return KvmProof(
            host_boot_id=host_boot_id, qemu_version=qemu_version, kernel=str(kernel), works=False, reason=reason
        )
    if proof is not None and (proof.host_boot_id, proof.qemu_version, proof.kernel) == wanted:
        return proof
    reason = await _boot_under_kvm(kernel)
    proof = KvmProof(
        host_boot_id=host_boot_id, qemu_version=qemu_version, kernel=str(kernel), works=not reason, reason=reason
    )
    async with exclusive(folder / "kvm-proof.lock"):
        draft = folder / "kvm-proof.draft"
        draft.write_text(proof.model_dump_json())
        draft.replace(kept)
    return proof


def _read(kept: Path) -> KvmProof | None:
    try:
        return KvmProof.model_validate_json(kept.read_bytes())
    except (OSError, ValidationError):
        return None


def _closed_reason() -> str:
    """Return why the device cannot be opened; empty where it can."""
    if os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return ""
    return f"{KVM_DEVICE} is {'not readable for this user' if KVM_DEVICE.exists() else 'missing'}"


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
