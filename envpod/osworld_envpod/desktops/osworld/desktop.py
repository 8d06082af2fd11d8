"""The desktop of a machine that is booted anew for each episode: by desktop-env's providers, docker, aws and vmware.

A boot takes minutes, under emulation up to 40. So it never belongs to the reset that waits for it: it goes on when the
reset has given up, and whoever comes next takes what it makes. One machine is booted ahead while an episode is played.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_contract.names import GUEST_PASSWORD
from osworld_envpod.desktops.base import DesktopFacts, DesktopState, GuestAddresses
from osworld_envpod.desktops.guest_clock import correct_guest_clock
from osworld_envpod.desktops.osworld.machine import Machine
from osworld_envpod.desktops.stateful import RUNS, StatefulDesktop

RESERVE_S: Final = 120.0
"""Kept of a reset's time for the task's setup. A machine that comes up later is for the next reset, unused."""

RESERVE_SHARE: Final = 0.25
"""Where the time is short, that share of it."""

logger = logging.getLogger(__name__)


class Booter(Protocol):
    """How machines of a provider are booted."""

    @property
    def facts(self) -> DesktopFacts:
        """Return what its desktops can do."""

    @property
    def boot_deadline_s(self) -> float:
        """Return the seconds that a boot may take, all its tries included."""

    @property
    def prepare_deadline_s(self) -> float:
        """Return the seconds that `prepare` may take."""

    @property
    def has_one_machine(self) -> bool:
        """Say whether a boot takes the machine away from whoever has it, so that none can be booted ahead."""

    async def prepare(self) -> None:
        """Have what all boots need. Can run twice; what is there is kept.

        Raises:
            FaultError: It cannot be had.
        """

    async def boot(self) -> Machine:
        """Return a machine whose guest shows a screen.

        Raises:
            FaultError: There is none, and nothing of it is left.
        """

    async def close(self) -> None:
        """Give back what `prepare` made. Can run twice."""


class BootedDesktop(StatefulDesktop):
    """See `Desktop`. Of two machines one is played on, the other is booting or waits."""

    def __init__(
        self,
        booter: Booter,
        spares: int,
        now: Callable[[], float] = time.monotonic,
        *,
        password: str = GUEST_PASSWORD,
    ) -> None:
        """`password` is that of the guest's user, to step its clock."""
        super().__init__()
        self._booter = booter
        self._password = password
        self._spares = 0 if booter.has_one_machine else spares
        self._now = now
        self._current: Machine | None = None
        self._next: asyncio.Task[Machine] | None = None
        self._next_began = 0.0
        self._watch: asyncio.Task[None] | None = None
        self._endings: set[asyncio.Task[None]] = set()

    @property
    def facts(self) -> DesktopFacts:
        """Return what this desktop can do. The accelerator is known once a machine has booted."""
        return self._booter.facts

    @property
    def start_deadline_s(self) -> float:
        """Return the seconds that a start may take."""
        return self._booter.prepare_deadline_s + self._booter.boot_deadline_s + RESERVE_S

    @property
    def addresses(self) -> GuestAddresses:
        """Return the guest's addresses; each machine has its own."""
        if self._state not in RUNS or self._current is None:
            raise self._without("addresses")
        return self._current.addresses

    @property
    def machine_id(self) -> str:
        """Return the name that the machine has at its provider."""
        if self._current is None:
            raise self._without("machine")
        return self._current.id

    async def start(self, deadline_s: float) -> None:
        """Boot the first machine. A start that fails leaves none."""
        self._begin_start()
        try:
            async with asyncio.timeout(deadline_s):
                await self._booter.prepare()
                await self._take(deadline_s)
        except BaseException as error:
            self._state = DesktopState.FAILED
            await self._end_all()
            if isinstance(error, TimeoutError):
                raise fault_error(
                    FaultReason.DESKTOP_START_FAILED, f"the desktop was not ready in {deadline_s:g} s"
                ) from error
            raise

    async def revert(self, deadline_s: float) -> None:
        """Give the machine up and take the next one, waiting for its boot where it must."""
        self._refuse_revert()
        began = self._now()
        self._state = DesktopState.REVERTING
        try:
            await self._discard()
            await self._take(deadline_s - (self._now() - began))
        except BaseException:
            self._state = DesktopState.FAILED
            raise

    async def pause(self, deadline_s: float) -> None:
        """Let the machine stand still, where its provider can. Nothing while it does already."""
        if self.facts.can_pause:
            await self._switch("pause", DesktopState.READY, DesktopState.PAUSED, deadline_s)

    async def resume(self, deadline_s: float) -> None:
        """Let it go on. Nothing while it does."""
        if self.facts.can_pause:
            await self._switch("resume", DesktopState.PAUSED, DesktopState.READY, deadline_s)

    async def correct_clock(self, deadline_s: float) -> None:
        """Step the guest's clock to ours where it is far off and the machine may have stood still."""
        if self.facts.can_pause:
            await correct_guest_clock(self.addresses, self._password, deadline_s)

    async def stop(self, deadline_s: float) -> None:
        """End all machines, one that is booting too. Works from any state.

        One that takes longer than `deadline_s` is ended by its own process, which outlives this one for it.
        """
        if self._state is DesktopState.STOPPED:
            return
        async with self._stopping(deadline_s):
            await self._end_all()

    async def _switch(self, order: str, before: DesktopState, after: DesktopState, deadline_s: float) -> None:
        if self._state is after:
            return
        if self._state is not before or self._current is None:
            raise RuntimeError(f"a desktop that is {self._state} cannot become {after}")
        try:
            await self._current.order(order, deadline_s)
        except FaultError:
            self._state = DesktopState.FAILED
            raise
        self._state = after

    async def _take(self, deadline_s: float) -> None:
        """Make the next machine the current one.

        Raises:
            FaultError: It did not boot, or boots still; then it goes on.
        """
        ends = self._now() + deadline_s - min(RESERVE_S, deadline_s * RESERVE_SHARE)
        self._current = await self._booted(ends)
        self._watch = asyncio.create_task(self._report_end(self._current), name="desktop watch")
        self._state = DesktopState.READY
        logger.info("desktop ready: machine %s", self._current.id)
        if self._spares:
            self._begin_boot()

    async def _booted(self, ends: float) -> Machine:
        was_begun_before = self._next is not None
        while True:
            task = self._begin_boot()
            await asyncio.wait({task}, timeout=max(0.0, ends - self._now()))
            if not task.done():
                raise self._still_booting()
            self._next = None
            try:
                machine = task.result()
            except FaultError as error:
                if not was_begun_before:
                    raise
                logger.warning("the machine that was booted ahead did not come up: %s", error)
            else:
                if machine.is_alive:
                    return machine
                logger.warning("the machine that was booted ahead is gone: %s", machine.ended.result())
                await machine.end()
            was_begun_before = False

    def _begin_boot(self) -> "asyncio.Task[Machine]":
        if self._next is None:
            self._next_began = self._now()
            self._next = asyncio.create_task(self._boot(), name="boot")
        return self._next

    async def _boot(self) -> Machine:
        await self._booter.prepare()
        began = self._now()
        machine = await self._booter.boot()
        logger.info("machine %s booted in %.1f s", machine.id, self._now() - began)
        return machine

    def _still_booting(self) -> FaultError:
        passed_s = self._now() - self._next_began
        return fault_error(
            FaultReason.DESKTOP_START_FAILED,
            f"the desktop is still booting, for {passed_s:.0f} s by now; a boot may take"
            f" {self._booter.boot_deadline_s:.0f} s. It goes on, and the next reset takes what it makes",
            booting_s=round(passed_s),
        )

    async def _report_end(self, machine: Machine) -> None:
        why = await asyncio.shield(machine.ended)
        if self._state in RUNS:
            self._state = DesktopState.FAILED
            logger.error("The desktop ended: %s", why)

    async def _discard(self) -> None:
        """End the current machine, behind the back of a reset that has the next one already."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._current is not None:
            machine, self._current = self._current, None
            ending = asyncio.create_task(machine.end(), name="machine end")
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            if self._booter.has_one_machine:
                await ending

    async def _end_all(self) -> None:
        """End every machine there is. Can run twice."""
        await self._discard()
        if self._next is not None:
            task, self._next = self._next, None
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and task.exception() is None:
                await task.result().end()
        if self._endings:
            await asyncio.wait(set(self._endings))
        await self._booter.close()
