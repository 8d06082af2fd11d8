"""The clock of a guest that stood still between the steps of its episode: stepped to ours where it is far off.

A fresh fork's clock is set when it wakes, by `qemu.guests`.
"""

import logging
import time
from typing import Final

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_envpod.desktops.base import GuestAddresses
from osworld_envpod.guest import GuestClient
from osworld_envpod.osworld_guest import ClockReading, OsworldGuestClient

DRIFT_MAX_S: Final = 60.0
"""A clock that is nearer to ours is left alone: programs in the guest see it jump. 15 steps of 30 s of thinking leave
one 7 min behind, which an evaluator that looks at a date or at the time of a file would judge."""

logger = logging.getLogger(__name__)


async def correct_guest_clock(addresses: GuestAddresses, password: str, deadline_s: float) -> None:
    """Step the guest's clock to ours where it is over `DRIFT_MAX_S` off: by our agent, else by root with `password`.

    Raises:
        FaultError: ``action_failed``: it is off and could not be set. ``guest_unreachable``, ``guest_timeout``.
    """
    end = time.monotonic() + deadline_s
    drift_s = await _drift_s(addresses, deadline_s)
    if abs(drift_s) <= DRIFT_MAX_S:
        return
    try:
        await _step(addresses, password, end - time.monotonic())
    except FaultError as error:
        raise _still_off(drift_s, str(error)) from error
    if abs(left_s := await _drift_s(addresses, end - time.monotonic())) > DRIFT_MAX_S:
        raise _still_off(left_s, "it was set, and is off again")
    logger.info("The guest's clock was %+.1f s off and is stepped", drift_s)


async def _drift_s(addresses: GuestAddresses, deadline_s: float) -> float:
    if not addresses.has_agent:
        async with OsworldGuestClient(addresses) as guest:
            return (await guest.clock(deadline_s)).least_drift_s
    async with GuestClient(addresses) as guest:
        asked = time.time()
        agent = await guest.agent(deadline_s)
        return ClockReading(agent.unix_time_s, asked, time.time()).least_drift_s


async def _step(addresses: GuestAddresses, password: str, deadline_s: float) -> None:
    if not addresses.has_agent:
        async with OsworldGuestClient(addresses) as guest:
            return await guest.set_clock(password, deadline_s)
    async with GuestClient(addresses) as guest:
        # The fork keeps its name; new entropy for the kernel does no harm.
        await guest.after_fork((await guest.agent(deadline_s)).boot_id, deadline_s)


def _still_off(drift_s: float, why: str) -> FaultError:
    return fault_error(
        FaultReason.ACTION_FAILED, f"the guest's clock is {drift_s:+.0f} s off and could not be set: {why}"
    )
