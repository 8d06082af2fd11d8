"""The client of a guest that is OSWorld's own image, which has OSWorld's guest server and no agent of ours.

Actions go as desktop-env sends them: to pyautogui in a Python of their own, by ``/execute``. What differs is that the
program is always the same one, here, and that the calls are data beside it.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from osworld_contract.actions import CALL_NAMES, Call
from osworld_contract.faults import FaultReason, fault_error
from osworld_contract.fork import ENTROPY_BYTES
from osworld_envpod.desktops.base import GuestAddresses
from osworld_envpod.guest import CommandResult, GuestClient
from osworld_envpod.osworld_programs import CALL_FAILED, CALLS, REFRESH

PYTHON_START_S: Final = 20.0
"""For Python and pyautogui to be loaded: 0.5 s (measured), 40 times as long in a guest that is emulated."""

EVIDENCE_CHARS: Final = 500
CLOCK_DRIFT_MAX_S: Final = 2.0
"""``date`` gives whole seconds, and takes one to be asked."""

READINGS_MAX: Final = 3
SLOW_S: Final = 0.8
"""Of a look at the clock. The first request after a fork woke takes 0.4 to 1 s under emulation, the next a tenth."""


@dataclass(frozen=True)
class ClockReading:
    """What a guest's clock showed, at some time between question and answer of ours."""

    shown: float
    asked: float
    answered: float

    @property
    def took_s(self) -> float:
        """Return how long the answer took, half of which `ahead_s` may be wrong by."""
        return self.answered - self.asked

    @property
    def ahead_s(self) -> float:
        """Return by how much it is ahead, most likely."""
        return self.shown - (self.asked + self.answered) / 2

    @property
    def least_drift_s(self) -> float:
        """Return by how much it is ahead (or, negative, behind) at the least."""
        return self.shown - min(max(self.shown, self.asked), self.answered)


class OsworldGuestClient(GuestClient):
    """See `GuestClient`. Without an agent nothing tells the windows, so no episode can be played again here."""

    async def windows(self) -> str | None:
        """Return None: this guest does not tell."""
        return None

    async def run_calls(self, calls: Sequence[Call], deadline_s: float) -> None:
        """Carry out `calls` in order, in one Python of the guest's.

        Raises:
            FaultError: As `GuestClient.run_calls`.
        """
        if unknown := next((call.name for call in calls if call.name not in CALL_NAMES), None):
            raise fault_error(FaultReason.ACTION_REFUSED, f"there is no function {unknown!r}")
        data = json.dumps([[call.name, list(call.args), call.kwargs] for call in calls])
        result = await self.execute(["python", "-c", CALLS, data], deadline_s + PYTHON_START_S)
        if result.returncode:
            is_refused = result.returncode == CALL_FAILED
            reason = FaultReason.ACTION_REFUSED if is_refused else FaultReason.ACTION_FAILED
            said = result.error.strip()[-EVIDENCE_CHARS:]
            raise fault_error(reason, f"pyautogui in the guest: {said or 'no message'}", exit_code=result.returncode)

    async def set_clock(self, password: str, deadline_s: float) -> None:
        """Set the guest's clock to ours where it is off: a machine that goes on from a snapshot wakes up in the past.

        Raises:
            FaultError: It is off and could not be set.
        """
        now = await self.execute(["date", "+%s"], deadline_s)
        if now.output.strip().isdigit() and abs(int(now.output) - time.time()) <= CLOCK_DRIFT_MAX_S:
            return
        result = await self._as_root(["date", "-s", f"@{time.time():.3f}"], password, deadline_s)
        if result.returncode:
            said = result.error.strip()[-EVIDENCE_CHARS:]
            raise fault_error(FaultReason.DESKTOP_UNCLEAN, f"the guest's clock could not be set: {said}")

    async def clock(self, deadline_s: float) -> ClockReading:
        """Look at the guest's clock, again where the answer was slow, and return the reading that tells most.

        Raises:
            FaultError: ``action_failed``, ``guest_unreachable``, ``guest_timeout``.
        """
        end = time.monotonic() + deadline_s
        readings: list[ClockReading] = []
        while len(readings) < READINGS_MAX and not (readings and readings[-1].took_s <= SLOW_S):
            readings.append(await self._reading(end - time.monotonic()))
        return min(readings, key=lambda reading: reading.took_s)

    async def _reading(self, deadline_s: float) -> ClockReading:
        asked = time.time()
        shown = await self.execute(["date", "+%s.%N"], deadline_s)
        answered = time.time()
        try:
            return ClockReading(float(shown.output), asked, answered)
        except ValueError as error:
            said = (shown.output + shown.error).strip()[-EVIDENCE_CHARS:]
            raise fault_error(FaultReason.ACTION_FAILED, f"the guest's date is no time: {said}") from error

    async def refresh(self, password: str, mark: str, ahead_s: float, deadline_s: float) -> list[str]:
        """Step the clock of a fork back by `ahead_s`, reseed its kernel's generator, and leave `mark` in it.

        Returns:
            The marks of other forks that were in its memory or on its disk.

        Raises:
            FaultError: ``desktop_unclean``: root could not do it in the guest. ``action_failed``,
                ``guest_unreachable``, ``guest_timeout``.
        """
        asked = json.dumps({"ahead_s": ahead_s, "entropy": os.urandom(ENTROPY_BYTES).hex(), "mark": mark})
        result = await self._as_root(["python3", "-c", REFRESH, asked], password, deadline_s)
        try:
            if result.returncode == 0:
                return [str(found) for found in json.loads(result.output)]
            said = result.error.strip()[-EVIDENCE_CHARS:]
        except ValueError:
            said = result.output.strip()[-EVIDENCE_CHARS:]
        raise fault_error(
            FaultReason.DESKTOP_UNCLEAN, f"clock and entropy of the guest could not be set: {said or 'no message'}"
        )

    async def _as_root(self, argv: Sequence[str], password: str, deadline_s: float) -> CommandResult:
        line = 'printf "%s\\n" "$0" | sudo -S -p "" "$@"'
        return await self.execute(["/bin/sh", "-c", line, password, *argv], deadline_s)


def guest_of(addresses: GuestAddresses) -> GuestClient:
    """Return the client for the guest at `addresses`."""
    return GuestClient(addresses) if addresses.has_agent else OsworldGuestClient(addresses)
