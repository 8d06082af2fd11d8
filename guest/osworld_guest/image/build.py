"""Builds the guest image into the cache, once for each recipe. The only code of the recipe that runs programs."""

import fcntl
import json
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Final

from osworld_contract.places import vm_image_dir
from osworld_guest import provision
from osworld_guest.image import recipe
from osworld_guest.image.prune import mark_used, prune
from osworld_guest.provision import ProvisionError, Runtime

PROGRAMS: Final = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "qemu-img": "qemu-utils", "tar": "tar"}
"""Programs that the build runs, with their Debian packages."""

BUILD_DEADLINE_S: Final = 1800.0
"""A guess with room: three minutes on two cores with a fast mirror."""

RUNTIME_ATTEMPTS: Final = 3
FREE_BYTES_MIN: Final = 6 * 1024**3
EVIDENCE_LINES: Final = 5
_SYSTEM_PATH: Final = "/usr/sbin:/sbin"

logger = logging.getLogger("osworld_guest.image")


@dataclass(frozen=True)
class GuestImage:
    """A built image: what a virtual machine of ours boots from."""

    disk: Path
    kernel: Path
    initrd: Path
    digest: str
    """SHA-256 of the disk."""

    def as_json(self) -> str:
        """Return the image as the one line that the command writes."""
        fields = {"disk": self.disk, "kernel": self.kernel, "initrd": self.initrd, "digest": self.digest}
        return json.dumps({name: str(value) for name, value in fields.items()})


def image_folder() -> Path:
    """Return where the image of this checkout's recipe is, or will be."""
    return vm_image_dir() / recipe.digest(_guest_sources())


def find() -> GuestImage:
    """Return the image of this recipe.

    Raises:
        ProvisionError: It was not built yet.
    """
    folder = image_folder()
    if not folder.is_dir():
        raise ProvisionError("the guest image is not built yet: run `python -m osworld_guest.image` (`make setup-vm`)")
    return _image_in(folder)


def build() -> GuestImage:
    """Build the image where it is missing, and return it.

    Raises:
        ProvisionError: It cannot be built; the message says what to install or do.
    """
    folder = image_folder()
    if folder.is_dir():
        return _image_in(folder)
    _refuse_missing_programs()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with provision.locked(folder.parent / "lock", BUILD_DEADLINE_S):
            if not folder.is_dir():
                _build_into(folder)
                prune(folder.parent)
    except OSError as error:
        raise ProvisionError(f"the cache {folder.parent} cannot be written: {error.strerror or error}") from error
    return _image_in(folder)


def _image_in(folder: Path) -> GuestImage:
    mark_used(folder)
    digest = (folder / "disk.sha256").read_text().strip()
    return GuestImage(folder / "disk.qcow2", folder / "vmlinuz", folder / "initrd.img", digest)


def _build_into(folder: Path) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < FREE_BYTES_MIN:
        raise ProvisionError(f"{folder.parent} has {free >> 20} MiB left; a guest image needs {FREE_BYTES_MIN >> 20}")
    version = provision.run([str(provision.SYSTEM_PYTHON), "-IS", "-c", "import sys; print(*sys.version_info[:2])"])
    if tuple(int(part) for part in version.split()) != recipe.PYTHON:
        wanted = ".".join(str(part) for part in recipe.PYTHON)
        raise ProvisionError(
            f"the guest has Python {wanted}, but {provision.SYSTEM_PYTHON} is {version.strip()}: build on Debian 12"
        )
    runtime, locks = _held_runtime()
    began = time.monotonic()
    is_root = os.geteuid() == 0
    for left in folder.parent.glob(".draft-*"):  # by a build that was killed: its lock is ours now
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder.parent) as name:
        draft = Path(name)
        draft.chmod(0o755)
        out = draft / "out"
        out.mkdir()
        out.chmod(0o777)  # without root, another user of the namespace writes here
        archive = folder.parent / f"base-{recipe.base_digest()}.tar"
        if not archive.exists():
            made = draft / "root.tar"
            _run("Debian and the guest's runtime", recipe.mmdebstrap_argv(made, is_root=is_root), draft, runtime)
            made.rename(archive)
        _run("disk", recipe.pack_argv(archive, out, is_root=is_root), draft, runtime)
        _run("qcow2", ["qemu-img", "convert", "-O", "qcow2", f"{out}/disk.raw", f"{out}/disk.qcow2"], draft, runtime)
        (out / "disk.raw").unlink()
        with (out / "disk.qcow2").open("rb") as file:
            (out / "disk.sha256").write_text(file_digest(file, "sha256").hexdigest() + "\n")
        out.chmod(0o755)
        for path in out.iterdir():
            path.chmod(0o444)
        out.rename(folder)
    for lock in locks:
        os.close(lock)
    size_mib = (folder / "disk.qcow2").stat().st_size >> 20
    logger.info("guest image %s: built in %.0f s, %d MiB", folder.name, time.monotonic() - began, size_mib)


def _held_runtime() -> tuple[Runtime, Sequence[int]]:
    """Return the guest's runtime and locks on it: whoever builds a newer one removes those that nobody holds."""
    for _ in range(RUNTIME_ATTEMPTS):
        runtime = provision.build(code_only=False)
        try:
            locks = [os.open(path, os.O_RDONLY) for path in (runtime.venv, runtime.code)]
        except FileNotFoundError:  # removed between build and lock
            continue
        for lock in locks:
            fcntl.flock(lock, fcntl.LOCK_SH)
        if runtime.venv.is_dir() and runtime.code.is_dir():
            return runtime, locks
    raise ProvisionError("the guest's runtime was removed again and again by other checkouts' builds: try once more")


def _run(what: str, argv: Sequence[str], draft: Path, runtime: Runtime) -> None:
    """Run one stage of the build; what it writes goes to a log, its last lines to the error."""
    began = time.monotonic()
    logger.info("guest image: %s ...", what)
    environment = os.environ | {
        "OSWORLD_FILES": str(recipe.FILES),
        "OSWORLD_VENV": str(runtime.venv),
        "OSWORLD_CODE": str(runtime.code),
    }
    environment["PATH"] = f"{environment.get('PATH', '')}:{_SYSTEM_PATH}"
    log = draft / "log"
    with log.open("wb") as file:
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, timeout=BUILD_DEADLINE_S,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ProvisionError(f"guest image: {what}: not done in {BUILD_DEADLINE_S:g} s") from error
    if done.returncode != 0:
        last = " | ".join(log.read_text(errors="replace").strip().splitlines()[-EVIDENCE_LINES:])
        raise ProvisionError(f"guest image: {what}: `{argv[0]}` failed with {done.returncode}: {last}")
    logger.info("guest image: %s: %.0f s", what, time.monotonic() - began)


def _refuse_missing_programs() -> None:
    path = f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}"
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program, path=path)})
    if missing:
        raise ProvisionError(f"install the Debian packages {' '.join(missing)}, or run `make setup-vm`")


def _guest_sources() -> Iterator[tuple[str, bytes]]:
    for package in provision.PACKAGES:
        folder = provision.package_folder(package)
        for path in provision.sources(folder):
            yield f"{package}/{path.relative_to(folder)}", path.read_bytes()
