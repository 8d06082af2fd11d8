"""The machine in VMware Fusion or Workstation: desktop-env's VMwareVMManager and VMwareProvider over ``vmrun``.

One virtual machine, reverted to its snapshot for each boot. desktop-env tries again without a pause and without an end
where ``vmrun`` fails; the env server has looked before whether there is one, and ends this process at its deadline.
"""

import logging
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from desktop_env.providers.vmware import provider as desktop_env_provider  # type: ignore[import-not-found]

from .service import MachineError

LOOK_EVERY_S = 15.0
"""A look starts ``vmrun``."""
VMRUN_DEADLINE_S = 120.0
PROGRESS_EVERY_S = 5.0
SERVER_PORT, CHROMIUM_PORT, VNC_PORT, VLC_PORT = 5000, 9222, 8006, 8080
"""Source: desktop-env's ``DesktopEnv``."""

log = logging.getLogger(__name__)
Tell = Callable[..., None]


class Machine:
    """The virtual machine. See `service.Machine`."""

    look_every_s = LOOK_EVERY_S

    def __init__(self, options: dict[str, Any], tell: Tell) -> None:
        self._options = options
        self._tell = tell
        self._provider = desktop_env_provider.VMwareProvider("local")
        self._path: str | None = options["vm"]

    def boot(self) -> dict[str, Any]:
        """Revert the machine to its snapshot, start it, and return its address: the env server waits for its guest."""
        path = self._path or self._installed()
        self._path = path
        self._need_snapshot(path)
        self._provider.revert_to_snapshot(path, self._options["snapshot"])
        self._provider.start_emulator(path, self._options["headless"], "Ubuntu")
        host = self._provider.get_ip_address(path)
        if not host or host.startswith("Error"):
            raise MachineError("desktop_start_failed", f"vmrun gives no address of {path}: {host or 'no answer'}")
        return {
            "id": path, "host": host, "server_port": SERVER_PORT, "chromium_port": CHROMIUM_PORT,
            "vnc_port": VNC_PORT, "vlc_port": VLC_PORT,
        }  # fmt: skip

    def pause(self) -> None:
        """Let the machine's processors stand still."""
        self._vmrun("pause", str(self._path))

    def resume(self) -> None:
        """Let them go on."""
        self._vmrun("unpause", str(self._path))

    def lost(self) -> str | None:
        """Return why the machine is not there any more, None while it runs."""
        try:
            running = {str(Path(line).resolve()) for line in self._vmrun("list").splitlines()[1:]}
        except MachineError as error:  # which says nothing of the machine
            log.warning("vmrun cannot be asked: %s", error)
            return None
        return None if str(Path(str(self._path)).resolve()) in running else f"{self._path} runs no more"

    def end(self) -> None:
        """Stop the machine: what an episode did to it ends with the next revert."""
        if self._path is not None:
            self._vmrun("stop", self._path, "hard", may_fail=True)

    def _installed(self) -> str:
        """Return desktop-env's own machine, which it installs from OSWorld's published zip where there is none."""
        from desktop_env.providers.vmware import manager  # noqa: PLC0415 - looks for the platform's zip when imported

        self._tell("progress", message="desktop-env looks for its virtual machine in ./vmware_vm_data, or installs it")
        manager.tqdm = lambda **more: _Progress(self._tell, **more)
        return str(manager.VMwareVMManager().get_vm_path(os_type="Ubuntu", region=None))

    def _need_snapshot(self, path: str) -> None:
        """Raise where machine or snapshot is not there: desktop-env would start it as the last episode left it."""
        if not Path(path).is_file():
            raise MachineError("image_unavailable", f"there is no virtual machine {path}")
        wanted = self._options["snapshot"]
        if wanted not in [line.strip() for line in self._vmrun("listSnapshots", path).splitlines()[1:]]:
            raise MachineError(
                "desktop_start_failed",
                f"{path} has no snapshot {wanted}: start it, log in, and take one of that name while its screen shows",
            )

    def _vmrun(self, *arguments: str, may_fail: bool = False) -> str:
        argv = ["vmrun", *desktop_env_provider.get_vmrun_type(return_list=True), *arguments]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=VMRUN_DEADLINE_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise MachineError(
                "desktop_lost", f"vmrun {arguments[0]} did not end within {VMRUN_DEADLINE_S:g} s"
            ) from error
        if done.returncode and not may_fail:
            said = (done.stdout + done.stderr).strip()[-300:]
            raise MachineError("desktop_start_failed", f"vmrun {arguments[0]} failed: {said or 'no message'}")
        return done.stdout


class _Progress:
    """Stands for tqdm in desktop-env's download, whose bar nobody would see."""

    def __init__(self, tell: Tell, total: int = 0, initial: int = 0, **_: Any) -> None:
        self._tell = tell
        self._have = initial
        self._total = initial + total
        self._told_s = 0.0

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        """Have nothing to close."""

    def update(self, count: int) -> None:
        """Note `count` bytes more, and tell now and then."""
        self._have += count
        if time.monotonic() > self._told_s + PROGRESS_EVERY_S:
            self._told_s = time.monotonic()
            self._tell("progress", message=f"{self._have >> 20} of {self._total >> 20} MiB fetched")
