"""A disk as OSWorld publishes one, made of our own image: partitions, a loader, a server with OSWorld's paths alone.

``python tests/whole_disk.py`` makes it in the cache folder, once for each of our images. No step needs root: partitions
and file systems are written into files.
"""

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from osworld_contract.places import cache_dir

MIB: Final = 1 << 20
EFI_MIB: Final = 64
"""Of the EFI system partition, which begins at the first MiB. It holds kernel, initrd and loader."""

DEADLINE_S: Final = 300.0
APP: Final = "/opt/osworld/code/osworld_guest/app.py"
APP_COMPILED: Final = "/opt/osworld/code/osworld_guest/__pycache__/app.cpython-311.pyc"
NETWORK: Final = "/etc/systemd/network/10-osworld.network"
ROOT_HELPER: Final = "/etc/systemd/system/multi-user.target.wants/osworld-root.service"

FILES: Final = {
    "/etc/fstab": "/dev/vda2 / ext4 rw,noatime 0 0\n",
    # As OSWorld's guest: it asks for its address.
    NETWORK: "[Match]\nName=en* eth*\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
}
GRUB: Final = """
linux /vmlinuz root=/dev/vda2 rw console=ttyS0 quiet mitigations=off systemd.show_status=0
initrd /initrd.img
boot
"""
SERVED: Final = "*routes, "
"""In the guest's application; what our agent has beyond OSWorld's paths is taken out there."""

OSWORLD_ALONE: Final = '*(route for route in routes if not route.path.startswith("/agent")), '


def whole_disk() -> Path:
    """Return the folder of the disk that goes with this checkout's image; it is made where it is missing."""
    image = json.loads(_run(sys.executable, "-m", "osworld_guest.image", "--find"))
    recipe = hashlib.sha256(Path(__file__).read_bytes() + image["digest"].encode()).hexdigest()[:16]
    store = cache_dir() / "test-disk"
    store.mkdir(parents=True, exist_ok=True)
    folder = store / recipe
    with (store / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            for older in store.iterdir():
                if older.is_dir():
                    shutil.rmtree(older)
            with tempfile.TemporaryDirectory(dir=store) as draft:
                _make({name: Path(image[name]) for name in ("disk", "kernel", "initrd")}, Path(draft))
                (Path(draft) / "out").rename(folder)
    return folder


def _make(image: dict[str, Path], draft: Path) -> None:
    root, efi, disk, out = draft / "root.raw", draft / "efi.raw", draft / "disk.raw", draft / "out"
    _run("qemu-img", "convert", "-O", "raw", str(image["disk"]), str(root))
    _edit(root, draft)
    _make_efi(efi, image["kernel"], image["initrd"], draft)
    root_mib = root.stat().st_size // MIB
    with disk.open("wb") as file:
        file.truncate((EFI_MIB + root_mib + 2) * MIB)
    _run("sfdisk", "--quiet", str(disk), stdin="\n".join((
        "label: gpt",
        f"start=1MiB, size={EFI_MIB}MiB, type=uefi",
        f"start={EFI_MIB + 1}MiB, size={root_mib}MiB, type=linux",
    )))  # fmt: skip
    out.mkdir()
    whole = out / "disk.qcow2"
    _run("qemu-img", "convert", "-O", "qcow2", str(disk), str(whole))
    for part, start_mib in ((efi, 1), (root, EFI_MIB + 1)):
        window = f"driver=raw,offset={start_mib * MIB},size={part.stat().st_size}"
        into = f"{window},file.driver=qcow2,file.file.filename={whole}"
        _run("qemu-img", "convert", "-n", "-f", "raw", "--target-image-opts", str(part), into)
    with whole.open("rb") as content:
        (out / "disk.sha256").write_text(hashlib.file_digest(content, "sha256").hexdigest() + "\n")


def _edit(root: Path, draft: Path) -> None:
    """Make the root file system that of a whole disk, with nothing in it for root to be asked but ``sudo``."""
    app = draft / "app.py"
    _run("debugfs", "-R", f"dump {APP} {app}", str(root))
    original = app.read_text()
    assert original.count(SERVED) == 1, "the guest's application is written otherwise now"
    new = FILES | {APP: original.replace(SERVED, OSWORLD_ALONE)}
    orders = [f"rm {ROOT_HELPER}", f"rm {APP_COMPILED}"]
    for number, (place, content) in enumerate(new.items()):
        (draft / f"{number}").write_text(content)
        orders += [f"rm {place}", f"write {draft / str(number)} {place}"]
    _run("debugfs", "-w", "-f", "-", str(root), stdin="\n".join(orders))
    for place in new:
        _run("debugfs", "-R", f"dump {place} {draft / 'seen'}", str(root))
        assert (draft / "seen").read_text() == new[place], place


def _make_efi(efi: Path, kernel: Path, initrd: Path, draft: Path) -> None:
    """Make the EFI system partition: GRUB where a firmware looks that knows of no other, as on a removable disk."""
    loader, config = draft / "BOOTX64.EFI", draft / "grub.cfg"
    config.write_text(GRUB)
    _run("grub-mkimage", "-O", "x86_64-efi", "-p", "/EFI/BOOT", "-o", str(loader), "part_gpt", "fat", "normal", "linux")
    with efi.open("wb") as file:
        file.truncate(EFI_MIB * MIB)
    _run("mformat", "-i", str(efi), "-F", "::")
    _run("mmd", "-i", str(efi), "::/EFI", "::/EFI/BOOT")
    _run("mcopy", "-i", str(efi), str(loader), str(config), "::/EFI/BOOT")
    _run("mcopy", "-i", str(efi), str(kernel), "::/vmlinuz")
    _run("mcopy", "-i", str(efi), str(initrd), "::/initrd.img")


def _run(program: str, *arguments: str, stdin: str = "") -> str:
    path = shutil.which(program, path="/usr/bin:/bin:/usr/sbin:/sbin") or program
    done = subprocess.run(
        [path, *arguments], input=stdin, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, f"{program} {' '.join(arguments)[:300]}: {(done.stdout + done.stderr)[-2000:]}"
    return done.stdout


if __name__ == "__main__":
    whole_disk()
