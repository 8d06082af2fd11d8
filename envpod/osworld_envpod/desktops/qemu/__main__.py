"""Says whether a kernel boots under KVM here: ``python -m osworld_envpod.desktops.qemu --prove-kvm``.

One JSON object on standard output: ``{"works": true | false | null, "reason": sentence}``; null where it could not be
tried. The same proof as a start of the provider makes, by a boot now whatever is kept, and kept at the same place;
``--kernel FILE`` boots that one, and keeps nothing. Exit code 0 where KVM works, else 1.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

from osworld_contract.faults import FaultError
from osworld_contract.places import vm_template_dir
from osworld_envpod.desktops.qemu.accelerator import KvmTrial, fresh_reason, kvm_proof
from osworld_envpod.desktops.qemu.argv import QEMU
from osworld_envpod.desktops.qemu.host import qemu_version
from osworld_envpod.desktops.qemu.image import BOOT_FOLDER, proof_kernel


async def prove(kernel: Path | None) -> tuple[bool | None, str]:
    """Return whether KVM works (None: not tried), and why not."""
    if kernel is not None:
        try:
            reason = await fresh_reason(kernel)
        except OSError as error:
            return None, f"{QEMU} did not start: {error}"
        return not reason, reason
    return await _prove_to_keep()


async def _prove_to_keep() -> tuple[bool | None, str]:
    try:
        version = await qemu_version()
    except (FaultError, OSError):
        return None, f"{QEMU} is not installed, or does not run"
    kernel = await proof_kernel()
    if kernel is None:
        return None, f"there is no kernel to boot: no image of ours, and none in {BOOT_FOLDER} that this user can read"
    folder = vm_template_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        proof = await kvm_proof(KvmTrial(kernel, version, folder), is_fresh=True)
    except OSError as error:
        return None, f"{QEMU} could not be tried in {folder}: {error.strerror}"
    return proof.works, proof.reason


def main() -> int:
    """Prove, and print."""
    parser = argparse.ArgumentParser(prog="osworld_envpod.desktops.qemu")
    parser.add_argument("--prove-kvm", action="store_true", required=True, help="boot a kernel under KVM and end")
    parser.add_argument("--kernel", type=Path, help="what is booted")
    works, reason = asyncio.run(prove(parser.parse_args().kernel))
    sys.stdout.write(json.dumps({"works": works, "reason": reason}) + "\n")
    return 0 if works else 1


if __name__ == "__main__":
    sys.exit(main())
