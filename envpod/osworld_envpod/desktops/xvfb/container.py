"""Sandboxes in a pod: sessions in the desktop's own container, one after the other, by its PID 1 (see `control`)."""

import asyncio
import logging
from pathlib import Path
from typing import Final

from osworld_contract.desktop_control import SESSION_FIRST_FD
from osworld_contract.faults import FaultReason, fault_error
from osworld_envpod.desktops.os_faults import os_fault
from osworld_envpod.desktops.xvfb.control import Control, ControlLost
from osworld_envpod.desktops.xvfb.sandbox import Doors, Maker, Sandbox
from osworld_envpod.desktops.xvfb.sandbox_argv import session_options
from osworld_envpod.desktops.xvfb.settings import XvfbSettings

EMPTY_DEADLINE_S: Final = 60.0
"""For a desktop to end and remove everything. A guess with room: 0.1 s; gigabytes of small files take some seconds."""

logger = logging.getLogger(__name__)


class ContainerMaker(Maker):
    """Has the desktop's container start sessions."""

    def __init__(self, settings: XvfbSettings, control: Control) -> None:
        self._settings = settings
        self._control = control
        self._was_there = False

    @property
    def spares(self) -> int:
        """Return 0: a container holds one desktop."""
        return 0

    @property
    def start_deadline_s(self) -> float:
        """Return the time for the container to come, and for the start in it."""
        return self._settings.first_container_deadline_s + self._settings.start_deadline_s

    async def prepare(self) -> None:
        """Wait until the container is there."""
        try:
            await self._control.open()
        except OSError as error:
            raise os_fault(error, "the desktop's control socket") from error
        settings = self._settings
        deadline_s = settings.container_deadline_s if self._was_there else settings.first_container_deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                await self._control.connected()
        except TimeoutError as error:
            raise fault_error(
                FaultReason.DESKTOP_LOST, f"the desktop's container did not come in {deadline_s:g} s"
            ) from error
        self._was_there = True

    async def make(self, boot_id: str, folder: Path) -> Sandbox:
        """Have a session started in the emptied container."""
        try:
            doors = Doors(folder)
        except OSError as error:
            raise os_fault(error, "the sandbox") from error
        theirs = range(SESSION_FIRST_FD, SESSION_FIRST_FD + len(doors.listening_fds))
        options = session_options(self._settings, boot_id, theirs)
        try:
            ended = await self._control.boot(options, [*doors.listening_fds, doors.log_fd])
        except ControlLost as error:
            doors.discard()
            message = f"the desktop's container ended as it was to start ({error})"
            raise fault_error(FaultReason.DESKTOP_LOST, message) from error
        except BaseException:
            doors.discard()
            raise
        doors.close()
        return ContainerSandbox(boot_id, doors, ended, self._control)

    async def release(self) -> None:
        """Let the container go, which empties itself."""
        await self._control.close()
        self._was_there = False


class ContainerSandbox(Sandbox):
    """A session in the desktop's container."""

    def __init__(self, boot_id: str, doors: Doors, ended: "asyncio.Future[int | None]", control: Control) -> None:
        super().__init__(boot_id, doors, ended)
        self._control = control

    async def _end(self) -> None:
        """Have the container emptied, where that was not done already as the session ended.

        A container that does not answer is let go: it empties itself before it comes again.
        """
        if self.ended.done():
            return
        try:
            async with asyncio.timeout(EMPTY_DEADLINE_S):
                await self._control.empty()
        except ControlLost as error:
            logger.info("the desktop's container is gone, and its processes with it: %s", error)
        except TimeoutError:
            logger.warning("the desktop's container was not emptied in %g s", EMPTY_DEADLINE_S)
