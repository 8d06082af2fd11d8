"""What the `vmware` provider boots: one virtual machine of VMware Fusion or Workstation, from its snapshot."""

import asyncio
import fcntl
import hashlib
import logging
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from osworld_contract.faults import FaultReason, fault_error
from osworld_contract.places import run_dir
from osworld_envpod.desktops.base import DesktopFacts
from osworld_envpod.desktops.os_faults import os_fault
from osworld_envpod.desktops.osworld.machine import BootPlan, Machine
from osworld_envpod.osworld_guest import OsworldGuestClient
from osworld_envpod.tasks.settings import worker_python

FUSION: Final = "/Applications/VMware Fusion.app/Contents/Library"
"""Where Fusion has `vmrun`, which it puts on no PATH."""

SNAPSHOT: Final = "init_state"
"""Source: desktop-env's ``DesktopEnv``, and the machine that it installs."""

CLOCK_DEADLINE_S: Final = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VmwareSettings:
    """Settings of the vmware provider."""

    vm: Path | None = None
    """The machine's ``.vmx``. None: the one that desktop-env has installed below the working directory, or installs."""
    snapshot: str = SNAPSHOT
    headless: bool = True
    password: str = "password"  # noqa: S105 - that of OSWorld's published machine
    """Of the guest's user, to set the clock."""
    boot_deadline_s: float = 2400.0
    python: Path = field(default_factory=worker_python)


class VmwareBooter:
    """See `Booter`."""

    has_one_machine = True
    facts = DesktopFacts("vmware", "none", can_pause=True, can_fork=False, root="real", proof="screen")
    prepare_deadline_s = 0.0

    def __init__(self, settings: VmwareSettings) -> None:
        self._settings = settings
        self._lock: IO[bytes] | None = None

    @property
    def boot_deadline_s(self) -> float:
        """Return the seconds that a boot may take."""
        return self._settings.boot_deadline_s

    async def prepare(self) -> None:
        """Need `vmrun`: desktop-env's code would look for it for ever."""
        if shutil.which("vmrun", path=_path()) is None:
            where = f"or put {FUSION} on PATH" if sys.platform == "darwin" else "or put its folder on PATH"
            raise fault_error(
                FaultReason.DESKTOP_START_FAILED,
                f"vmrun is not on PATH: install VMware Fusion (macOS) or Workstation Pro, {where}",
            )

        if self._settings.vm is not None and self._lock is None:
            self._lock = await asyncio.to_thread(_locked, self._settings.vm.expanduser().resolve())

    async def boot(self) -> Machine:
        """Return the machine, reverted to its snapshot, with a screen and the right time."""
        settings = self._settings
        options = {
            "vm": str(settings.vm.expanduser().absolute()) if settings.vm else None,
            "snapshot": settings.snapshot,
            "headless": settings.headless,
        }
        environment = {"PATH": _path()} | {name: os.environ[name] for name in ("HF_ENDPOINT",) if name in os.environ}
        machine = await Machine.boot(
            BootPlan("vmware", settings.python, options, settings.boot_deadline_s, environment)
        )
        try:
            async with OsworldGuestClient(machine.addresses) as guest:
                await guest.set_clock(settings.password, CLOCK_DEADLINE_S)
        except BaseException:
            await machine.end()
            raise
        return machine

    async def close(self) -> None:
        """Let the machine go."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _locked(vm: Path) -> IO[bytes]:
    """Return the file by whose lock the machine is ours alone: two env servers would revert it under each other."""
    folder = run_dir() / "vmware"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f"{hashlib.sha256(str(vm).encode()).hexdigest()[:20]}.lock").open("wb")
    except OSError as error:
        raise os_fault(error, "the machine's lock") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise fault_error(
            FaultReason.DESKTOP_START_FAILED, f"another env server plays on {vm}: each needs a machine of its own"
        ) from error
    return file


def _path() -> str:
    path = os.environ.get("PATH", os.defpath)
    return f"{path}{os.pathsep}{FUSION}" if sys.platform == "darwin" else path
