"""What the `docker` provider boots: OSWorld's container image over OSWorld's disk, under KVM where that works."""

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from osworld_contract.faults import Fault, FaultError, FaultReason, fault_error
from osworld_contract.places import cache_dir, run_dir
from osworld_envpod.desktops.base import DesktopFacts
from osworld_envpod.desktops.os_faults import os_fault
from osworld_envpod.desktops.osworld.machine import BootPlan, Machine
from osworld_envpod.desktops.rundir import RunDir, sweep
from osworld_envpod.images import ImageRequest, Show, fetch_image, parse_address, show_nothing
from osworld_envpod.images.qcow2 import check_disk
from osworld_envpod.tasks.settings import worker_python

IMAGE: Final = "happysixd/osworld-docker"
"""Source: desktop-env's DockerProvider."""

DISK_URL: Final = "https://huggingface.co/datasets/xlangai/ubuntu_osworld/resolve/main/Ubuntu.qcow2.zip"
USUAL_DISK: Final = Path("docker_vm_data") / "Ubuntu.qcow2"
"""Where desktop-env has put the disk of today's users. Source of both: desktop-env's DockerVMManager."""

HUB: Final = "https://huggingface.co"
HOST_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
KVM_BOOT_DEADLINE_S: Final = 300.0
"""For a guest under KVM that has not been seen to work. Source: desktop-env, which gives up then."""

ENGINE_VARIABLES: Final = (
    "DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONFIG", "XDG_RUNTIME_DIR",
)  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DockerSettings:
    """Settings of the docker provider."""

    image: str = IMAGE
    """The engine fetches it where it has none."""
    disk: ImageRequest | None = None
    """None: `USUAL_DISK` in the working directory where it is there, else `DISK_URL`."""
    show_image: Show = show_nothing
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    cpus: int = 4
    memory_mib: int = 4096
    disk_gib: int = 32
    boot_deadline_s: float = 2400.0
    """Of one boot. 20 to 40 min are known under emulation."""
    kvm_boot_deadline_s: float = KVM_BOOT_DEADLINE_S
    kvm_device: Path = Path("/dev/kvm")
    python: Path = field(default_factory=worker_python)


class KvmNote(BaseModel):
    """Whether a guest has come up under KVM since this machine was started."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host_boot_id: str
    works: bool


class DockerBooter:
    """See `Booter`."""

    has_one_machine = False

    def __init__(self, settings: DockerSettings) -> None:
        self._settings = settings
        self._run_dir: RunDir | None = None
        self._disk: Path | None = None
        self._is_kvm: bool | None = None
        self._digest: str | None = None

    @property
    def facts(self) -> DesktopFacts:
        """Return what its desktops can do. The accelerator is known once one has booted; it reads ``tcg`` before."""
        accelerator: Literal["kvm", "tcg"] = "kvm" if self._is_kvm else "tcg"
        return DesktopFacts(
            "docker", accelerator, can_pause=True, can_fork=False, root="real", image_digest=self._digest,
            proof="screen",
        )  # fmt: skip

    @property
    def boot_deadline_s(self) -> float:
        """Return the seconds that a boot may take."""
        tries_kvm = (
            self._settings.accelerator == "auto" and self._is_kvm is not False and self._settings.kvm_device.exists()
        )
        return self._settings.boot_deadline_s + (self._settings.kvm_boot_deadline_s if tries_kvm else 0.0)

    @property
    def prepare_deadline_s(self) -> float:
        """Return the seconds that the disk's fetch may take."""
        return self._request().limits.total_s

    async def prepare(self) -> None:
        """Have the disk, and a lock that says that this env server lives."""
        try:
            if self._run_dir is None:
                parent = run_dir() / "docker"
                self._run_dir = await asyncio.to_thread(RunDir.create, parent)
        except OSError as error:
            raise os_fault(error, "the desktop's folder") from error
        if self._disk is None:
            self._disk = await self._found_disk()

    async def boot(self) -> Machine:
        """Return a container whose guest shows a screen. KVM that does not bring one up is not tried again."""
        wanted = self._settings.accelerator
        if wanted == "kvm" and not self._settings.kvm_device.exists():
            raise fault_error(
                FaultReason.DESKTOP_START_FAILED, f"{self._settings.kvm_device} not found, and KVM was asked for"
            )
        known = await asyncio.to_thread(_read_note)
        if wanted == "tcg" or (wanted == "auto" and (known is False or not self._settings.kvm_device.exists())):
            if wanted == "auto" and self._is_kvm is None:
                why = "does not work here" if known is False else "is not to be had: /dev/kvm not found"
                logger.warning("KVM %s. Virtual machines run in SOFTWARE EMULATION: a boot takes 20 to 40 min", why)
            self._is_kvm = False
            return await self._booted(kvm=False, deadline_s=self._settings.boot_deadline_s)
        is_trial = wanted == "auto" and known is None
        deadline_s = self._settings.kvm_boot_deadline_s if is_trial else self._settings.boot_deadline_s
        try:
            machine = await self._booted(kvm=True, deadline_s=deadline_s)
        except FaultError as error:
            if not is_trial or not _can_be_kvms(error.fault):
                raise
            logger.warning("KVM may not work here: %s. The next try is SOFTWARE EMULATION", error.fault.message)
            machine = await self._booted(kvm=False, deadline_s=self._settings.boot_deadline_s)
            # Noted only now: what ends without KVM, too, is no matter of KVM's.
            return await self._known(machine, is_kvm=False)
        return await self._known(machine, is_kvm=True)

    async def close(self) -> None:
        """Let the lock go."""
        if self._run_dir is not None:
            directory, self._run_dir = self._run_dir, None
            await asyncio.to_thread(directory.remove)
            await asyncio.to_thread(sweep, directory.path.parent)

    async def _known(self, machine: Machine, *, is_kvm: bool) -> Machine:
        self._is_kvm = is_kvm
        await asyncio.to_thread(_write_note, works=is_kvm)
        return machine

    async def _booted(self, *, kvm: bool, deadline_s: float) -> Machine:
        return await Machine.boot(self._plan(kvm=kvm, deadline_s=deadline_s))

    def _plan(self, *, kvm: bool, deadline_s: float) -> BootPlan:
        assert self._run_dir is not None and self._disk is not None
        settings = self._settings
        options: Mapping[str, Any] = {
            "image": settings.image,
            "disk": str(self._disk),
            "kvm_device": str(settings.kvm_device) if kvm else None,
            "lock": str(self._run_dir.path / "lock"),
            "boot_timeout_s": deadline_s,
            "environment": {
                "DISK_SIZE": f"{settings.disk_gib}G",
                "RAM_SIZE": f"{settings.memory_mib}M",
                "CPU_CORES": str(settings.cpus),
            },
        }
        engine = {name: os.environ[name] for name in ENGINE_VARIABLES if name in os.environ}
        return BootPlan("docker", settings.python, options, deadline_s, engine | {"NO_PROXY": "localhost,127.0.0.1"})

    def _request(self) -> ImageRequest:
        hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")  # as desktop-env: a mirror of the same files
        return self._settings.disk or ImageRequest(parse_address(DISK_URL.replace(HUB, hub, 1)))

    async def _found_disk(self) -> Path:
        usual = USUAL_DISK.absolute()
        if self._settings.disk is None and await asyncio.to_thread(usual.is_file):
            try:
                await asyncio.to_thread(check_disk, usual)
            except ValueError as error:
                raise fault_error(
                    FaultReason.IMAGE_INVALID, f"{usual} is refused: {error}; remove it, and it is fetched anew"
                ) from error
            except OSError as error:
                raise os_fault(error, "the disk") from error
            logger.info("the disk is %s, which was there", usual)
            return usual
        folder = await fetch_image(self._request(), self._settings.show_image)
        self._digest = await asyncio.to_thread(_digest_in, folder)
        return (folder / "disk.qcow2").resolve()


def _can_be_kvms(fault: Fault) -> bool:
    """Say whether KVM can be why a guest did not come up: it showed nothing in time, or its container ended.

    The latter is how the image itself refuses a device that it cannot use. Source: proc.sh of qemus/qemu, on which
    OSWorld's is built: ``exit 88``.
    """
    return fault.reason is FaultReason.GUEST_TIMEOUT or "exit_code" in fault.evidence


def _digest_in(folder: Path) -> str | None:
    path = folder / "disk.sha256"
    return path.read_text().split()[0] if path.is_file() else None


def _note_path() -> Path:
    return cache_dir() / "docker-kvm.json"


def _read_note() -> bool | None:
    """Return whether KVM has worked since this machine was started; None where nobody knows."""
    try:
        note = KvmNote.model_validate_json(_note_path().read_bytes())
        return note.works if note.host_boot_id == HOST_BOOT_ID.read_text().strip() else None
    except (OSError, ValidationError):
        return None


def _write_note(*, works: bool) -> None:
    try:
        note = KvmNote(host_boot_id=HOST_BOOT_ID.read_text().strip(), works=works)
        draft = _note_path().with_name(f"docker-kvm.{os.getpid()}.draft")
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(note.model_dump_json())
        draft.replace(_note_path())
    except OSError as error:  # the next start finds out again
        logger.warning("whether KVM works could not be noted: %s", error)
