"""The two kinds of guests, and what is asked of each: to come up, to become a fork of its own, to be proven clean.

Our agent does and tells all of it by itself. Where OSWorld's server is, root's part is done through ``sudo`` with the
user's password, and a fork is proven by marks: each leaves one in memory and one on disk, and finds none.
"""

import asyncio
import io
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from PIL import Image

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_envpod.desktops.base import GuestAddresses
from osworld_envpod.desktops.cleanliness import CLOCK_DRIFT_MAX_S, leftovers
from osworld_envpod.desktops.qemu.machine import Machine
from osworld_envpod.desktops.qemu.rest import NotAtRestError, await_rest
from osworld_envpod.guest import CleanProof, GuestClient
from osworld_envpod.osworld_guest import ClockReading, OsworldGuestClient

BOOT_ATTEMPT_S: Final = 5.0
"""For one look at a guest that boots: QEMU takes connections before the guest does, and drops them."""

SCREEN_ATTEMPT_S: Final = 30.0
"""For a screenshot of one that boots, which OSWorld's server may take seconds for under emulation."""

BOOT_RETRY_S: Final = 0.2
WINDOWS_PAUSE_S: Final = 0.1

logger = logging.getLogger(__name__)


class GuestKind(Protocol):
    """What is asked of a guest. Every method takes the seconds it may use and raises `FaultError`."""

    @property
    def has_agent(self) -> bool:
        """Return whether our agent serves it."""

    async def await_boot(self, machine: Machine, addresses: GuestAddresses) -> None:
        """Return when a guest that boots can be frozen; the caller's deadline bounds the wait."""

    async def make_own(self, addresses: GuestAddresses, boot_id: str, deadline_s: float) -> None:
        """Give a fork of a fresh guest clock, entropy and name of its own, and prove it clean."""

    async def make_own_set_up(
        self, addresses: GuestAddresses, boot_id: str, windows: str | None, deadline_s: float
    ) -> None:
        """As `make_own`, with a task set up, which is no clean one; its windows must be `windows`, if given."""


class OwnGuest:
    """A guest with our agent. See `GuestKind`."""

    has_agent = True

    async def await_boot(self, machine: Machine, addresses: GuestAddresses) -> None:
        """Wait for the agent, which answers when its desktop is drawn."""
        proof = await self._first_proof(machine, addresses)
        refuse_unclean(leftovers(proof, proof.boot_id, proof.unix_time_s))

    async def make_own(self, addresses: GuestAddresses, boot_id: str, deadline_s: float) -> None:
        """Have the agent do it, and judge its proof."""
        end = time.monotonic() + deadline_s
        async with GuestClient(addresses) as guest:
            await guest.after_fork(boot_id, end - time.monotonic())
            asked = time.time()
            proof = await guest.proof(end - time.monotonic())
        drift_s = ClockReading(proof.unix_time_s, asked, time.time()).least_drift_s
        refuse_unclean(leftovers(proof, boot_id, proof.unix_time_s - drift_s))

    async def make_own_set_up(
        self, addresses: GuestAddresses, boot_id: str, windows: str | None, deadline_s: float
    ) -> None:
        """Have the agent do it, and compare the windows."""
        end = time.monotonic() + deadline_s
        async with GuestClient(addresses) as guest:
            asked = time.time()
            agent = await guest.after_fork(boot_id, end - time.monotonic())
            _refuse_drift(ClockReading(agent.unix_time_s, asked, time.time()).least_drift_s)
            while windows is not None and await guest.windows() != windows:
                if time.monotonic() > end:
                    refuse_unclean(["other windows than when it was frozen"])
                await asyncio.sleep(WINDOWS_PAUSE_S)

    async def _first_proof(self, machine: Machine, addresses: GuestAddresses) -> CleanProof:
        while machine.is_alive:
            async with GuestClient(addresses) as guest:
                try:
                    await guest.agent(BOOT_ATTEMPT_S)
                    return await guest.proof(BOOT_ATTEMPT_S * 6)
                except FaultError:
                    await asyncio.sleep(BOOT_RETRY_S)
        raise await machine.failure("the machine ended while it booted")


@dataclass(frozen=True)
class OsworldGuest:
    """A guest with OSWorld's server. See `GuestKind`."""

    password: str
    rest_deadline_s: float
    has_agent = False

    async def await_boot(self, machine: Machine, addresses: GuestAddresses) -> None:
        """Wait for a screen that is no blank one, and for the desktop behind it to come to rest."""
        while True:
            if not machine.is_alive:
                raise await machine.failure("the machine ended while it booted")
            async with OsworldGuestClient(addresses) as guest:
                try:
                    if not _is_blank(await guest.screenshot(SCREEN_ATTEMPT_S)):
                        break
                except FaultError:
                    pass
            await asyncio.sleep(BOOT_RETRY_S)
        try:
            await await_rest(machine, addresses, self.rest_deadline_s)
        except NotAtRestError as error:
            logger.warning("the desktop is frozen as it is: %s", error)

    async def make_own(self, addresses: GuestAddresses, boot_id: str, deadline_s: float) -> None:
        """Do it as root, and refuse a fork with the mark of another one, or with a blank screen."""
        end = time.monotonic() + deadline_s
        async with OsworldGuestClient(addresses) as guest:
            marks = await self._refreshed(guest, boot_id, end)
            found = [f"the mark of another fork: {mark}" for mark in marks]
            if _is_blank(await guest.screenshot(end - time.monotonic())):
                found.append("the screen is blank")
        refuse_unclean(found)

    async def make_own_set_up(
        self, addresses: GuestAddresses, boot_id: str, windows: str | None, deadline_s: float
    ) -> None:
        """Do it as root, and refuse all marks but that of the fork that was set up. Nothing tells the windows."""
        async with OsworldGuestClient(addresses) as guest:
            marks = await self._refreshed(guest, boot_id, time.monotonic() + deadline_s)
        if len({Path(mark).name for mark in marks}) > 1:
            refuse_unclean([f"the mark of another fork: {mark}" for mark in marks])

    async def _refreshed(self, guest: OsworldGuestClient, boot_id: str, end: float) -> list[str]:
        """Return the marks of other forks that the guest has."""
        before = await guest.clock(end - time.monotonic())
        marks = await guest.refresh(self.password, boot_id, before.ahead_s, end - time.monotonic())
        _refuse_drift((await guest.clock(end - time.monotonic())).least_drift_s)
        return marks


def refuse_unclean(found: list[str]) -> None:
    """Raise the fault for what was found in a fresh desktop, if anything.

    Raises:
        FaultError: ``desktop_unclean``.
    """
    if found:
        raise fault_error(
            FaultReason.DESKTOP_UNCLEAN, f"a fresh desktop is not clean: {'; '.join(found)}", found=list(found)
        )


def _refuse_drift(ahead_s: float) -> None:
    if abs(ahead_s) > CLOCK_DRIFT_MAX_S:
        refuse_unclean([f"its clock is {ahead_s:+.1f} s off"])


def _is_blank(frame: bytes) -> bool:
    """Return whether all of a screen has one colour, or is no whole picture."""
    try:
        return Image.open(io.BytesIO(frame)).convert("RGB").getcolors(maxcolors=1) is not None
    except OSError:
        return True
