"""A desktop that keeps its state, and the moves that are the same for all: what a state allows, what a refusal says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from osworld_contract.faults import FaultReason, fault_error
from osworld_envpod.desktops.base import Desktop, DesktopState

RUNS: Final = (DesktopState.READY, DesktopState.PAUSED)
REVERTIBLE: Final = (*RUNS, DesktopState.FAILED)


class StatefulDesktop(Desktop):
    """What a provider's desktop inherits. It alone sets `_state` beyond what is here."""

    def __init__(self) -> None:
        self._state = DesktopState.STOPPED

    @property
    def state(self) -> DesktopState:
        """Return the state."""
        return self._state

    def _begin_start(self) -> None:
        """Move to STARTING.

        Raises:
            RuntimeError: It was started before.
        """
        if self._state is not DesktopState.STOPPED:
            raise RuntimeError(f"a desktop that is {self._state} cannot be started")
        self._state = DesktopState.STARTING

    def _refuse_revert(self) -> None:
        """Raise `RuntimeError` where the state allows no revert."""
        if self._state not in REVERTIBLE:
            raise RuntimeError(f"a desktop that is {self._state} cannot be reverted")

    def _without(self, what: str) -> RuntimeError:
        """Return the error of who asks for what a desktop has in other states only."""
        return RuntimeError(f"a desktop that is {self._state} has no {what}")

    @contextlib.asynccontextmanager
    async def _stopping(self, deadline_s: float) -> AsyncIterator[None]:
        """Bound what ends all of it, and move to STOPPED, or FAILED where the time is not enough.

        Raises:
            FaultError: ``operation_timeout``.
        """
        try:
            async with asyncio.timeout(deadline_s):
                yield
        except TimeoutError as error:
            self._state = DesktopState.FAILED
            raise fault_error(FaultReason.OPERATION_TIMEOUT, f"the desktop did not stop in {deadline_s:g} s") from error
        self._state = DesktopState.STOPPED
