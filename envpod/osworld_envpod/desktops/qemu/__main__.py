"""Says whether a kernel boots under KVM here: ``python -m osworld_envpod.desktops.qemu --prove-kvm``.

One JSON object on standard output: ``{"works": true | false | null, "reason": sentence}``; null where it could not be
tried. The same proof as a start of the provider makes, and kept at the same place. Exit code 0 where KVM works, else 1.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Final

from osworld_contract.faults import FaultError
from osworld_contract.places import vm_template_dir
from osworld_envpod.desktops.qemu.accelerator import kvm_proof
from osworld_envpod.desktops.qemu.argv import QEMU
from osworld_envpod.desktops.qemu.host import qemu_version
from osworld_envpod.desktops.qemu.image import find_image

BOOT_FOLDER: Final = Path("/boot")


async def prove() -> tuple[bool | None, str]:
    """Return whether KVM works (None: not tried), and why not."""
    try:
        version = await qemu_version()
    except (FaultError, OSError):
        return None, f"{QEMU} is not installed, or does not run"
    kernel = await _kernel()
    if kernel is None:
        return None, f"there is no kernel to boot: no image of ours, and none in {BOOT_FOLDER} that this user can read"
    folder = vm_template_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        proof = await kvm_proof(kernel, version, folder)
    except OSError as error:
        return None, f"{QEMU} could not be tried in {folder}: {error.strerror}"
    return proof.works, proof.reason


async def _kernel() -> Path | None:
    """Return our image's kernel, else the newest of this machine's that can be read (Ubuntu's only root can)."""
    try:
        return (await find_image(None)).kernel
    except FaultError:
        kernels = [path for path in BOOT_FOLDER.glob("vmlinuz-*") if os.access(path, os.R_OK)]
        return max(kernels, key=lambda path: path.stat().st_mtime, default=None)


def main() -> int:
    """Prove, and print."""
    parser = argparse.ArgumentParser(prog="osworld_envpod.desktops.qemu")
    parser.add_argument("--prove-kvm", action="store_true", required=True, help="boot a kernel under KVM and end")
    parser.parse_args()
    works, reason = asyncio.run(prove())
    sys.stdout.write(json.dumps({"works": works, "reason": reason}) + "\n")
    return 0 if works else 1


if __name__ == "__main__":
    sys.exit(main())
