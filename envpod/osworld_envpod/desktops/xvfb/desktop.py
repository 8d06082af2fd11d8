"""The xvfb desktop: a real X desktop in a sandbox, thrown away at each revert.

State is driven here. Each revert takes a sandbox that was never used; one spare is booted ahead where there can be one,
so that a revert is a swap. No file or process of an episode can reach the next: homes are in memory, and end or are
emptied with their sandbox.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_envpod.desktops.base import DesktopFacts, DesktopState, GuestAddresses
from osworld_envpod.desktops.cleanliness import leftovers
from osworld_envpod.desktops.os_faults import os_fault
from osworld_envpod.desktops.rundir import RunDir, sweep
from osworld_envpod.desktops.stateful import RUNS, StatefulDesktop
from osworld_envpod.desktops.xvfb.bwrap import BwrapMaker
from osworld_envpod.desktops.xvfb.container import ContainerMaker
from osworld_envpod.desktops.xvfb.control import Control
from osworld_envpod.desktops.xvfb.forward import ClosedPort, Forward
from osworld_envpod.desktops.xvfb.sandbox import Maker, Sandbox
from osworld_envpod.desktops.xvfb.settings import XvfbSettings

FACTS: Final = DesktopFacts(
    provider="xvfb", accelerator="none", can_pause=False, can_fork=False, root="emulated", network="none"
)
SPARE_PROOF_DEADLINE_S: Final = 10.0
"""For a spare to answer before a fresh desktop is booted instead. A guess with room: 20 ms."""


logger = logging.getLogger(__name__)


class XvfbDesktop(StatefulDesktop):
    """See `Desktop`. Start it from a thread that lives as long as it does: sandboxes end with their parent thread."""

    def __init__(self, settings: XvfbSettings | None = None) -> None:
        super().__init__()
        self._settings = settings or XvfbSettings()
        self._run_dir: RunDir | None = None
        self._maker = _maker(self._settings)
        self._current: Sandbox | None = None
        self._spare: asyncio.Task[Sandbox] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._forwards: dict[str, Forward] = {}
        self._vnc: ClosedPort | None = None
        self._boots = 0

    @property
    def facts(self) -> DesktopFacts:
        """Return what this desktop can do. A sandbox has no network; a pod's desktop has that of its pod."""
        return FACTS if self._settings.control is None else replace(FACTS, network="open")

    @property
    def start_deadline_s(self) -> float:
        """Return the seconds that a start may take."""
        return self._maker.start_deadline_s

    @property
    def addresses(self) -> GuestAddresses:
        """Return the guest's addresses. The ports stay the same over reverts, the socket does not."""
        if self._state not in RUNS or self._current is None or self._vnc is None:
            raise self._without("addresses")
        return GuestAddresses(
            host=self._settings.host,
            server_port=self._forwards["agent"].port,
            chromium_port=self._forwards["chromium"].port,
            vlc_port=self._forwards["vlc"].port,
            vnc_port=self._vnc.port,
            server_socket=self._current.sockets.agent,
        )

    async def start(self, deadline_s: float) -> None:
        """Boot the first sandbox and prove it clean. A start that fails leaves no process, port or file."""
        self._begin_start()
        try:
            async with self._moving(deadline_s, FaultReason.DESKTOP_START_FAILED):
                await self._prepare()
                self._adopt(await self._boot(deadline_s))
        except BaseException:
            await self._release()
            raise

    async def revert(self, deadline_s: float) -> None:
        """End the sandbox and take a fresh one."""
        self._refuse_revert()
        self._state = DesktopState.REVERTING
        async with self._moving(deadline_s, FaultReason.DESKTOP_UNCLEAN):
            await self._prepare()
            await self._discard()
            self._adopt(await self._proven_spare() or await self._boot(deadline_s))

    async def stop(self, deadline_s: float) -> None:
        """End everything. Works from any state."""
        if self._state is DesktopState.STOPPED:
            return
        async with self._stopping(deadline_s):
            await self._discard()
            if spare := await self._take_spare(cancel=True):
                await spare.kill()
            await self._release()

    async def _release(self) -> None:
        """Give back what lasts over reverts: ports, what sandboxes are made of, the folder. Can run twice."""
        for forward in self._forwards.values():
            await forward.close()
        self._forwards = {}
        if self._vnc is not None:
            self._vnc.close()
            self._vnc = None
        await self._maker.release()
        if self._run_dir is not None:
            self._run_dir.remove()
            self._run_dir = None

    @contextlib.asynccontextmanager
    async def _moving(self, deadline_s: float, reason: FaultReason) -> AsyncIterator[None]:
        """Bound a start or revert by `deadline_s`; end READY with a new spare on its way, or FAILED with nothing."""
        start = time.monotonic()
        try:
            async with asyncio.timeout(deadline_s):
                yield
        except TimeoutError as error:
            await self._fail()
            raise fault_error(reason, f"the desktop was not ready in {deadline_s:g} s") from error
        except OSError as error:
            await self._fail()
            raise os_fault(error, "the sandbox") from error
        except BaseException:
            await self._fail()
            raise
        self._state = DesktopState.READY
        logger.info(
            "desktop ready in %.2f s: boot %s", time.monotonic() - start, self._current and self._current.boot_id
        )
        if self._maker.spares and self._spare is None:
            self._spare = asyncio.create_task(self._boot(self._settings.start_deadline_s), name="spare desktop")

    async def _fail(self) -> None:
        self._state = DesktopState.FAILED
        await self._discard()

    async def _prepare(self) -> None:
        """Make what lasts over reverts, where it is not there yet."""
        if self._run_dir is None:
            await asyncio.to_thread(sweep, self._settings.run_dir)
            self._run_dir = await asyncio.to_thread(RunDir.create, self._settings.run_dir)
        await self._maker.prepare()
        if not self._forwards:
            forwards = {name: Forward() for name in ("agent", "chromium", "vlc")}
            for forward in forwards.values():
                await forward.open(self._settings.host)
            self._forwards = forwards
        if self._vnc is None:
            self._vnc = ClosedPort(self._settings.host)

    async def _boot(self, deadline_s: float) -> Sandbox:
        """Start a sandbox and return it when it is drawn and proven clean."""
        assert self._run_dir is not None
        self._boots += 1
        folder = self._run_dir.path / f"{self._boots % 10_000}"
        sandbox = await self._maker.make(uuid.uuid4().hex, folder)
        try:
            await self._prove(sandbox, deadline_s)
        except BaseException:
            await sandbox.kill()
            raise
        return sandbox

    async def _prove(self, sandbox: Sandbox, deadline_s: float) -> None:
        proof = await sandbox.await_proof(deadline_s)
        if found := leftovers(proof, sandbox.boot_id, time.time()):
            raise fault_error(
                FaultReason.DESKTOP_UNCLEAN, f"a fresh desktop is not clean: {'; '.join(found)}", found=list(found)
            )

    async def _take_spare(self, *, cancel: bool = False) -> Sandbox | None:
        """Return the spare, waiting for one that is on its way; None where there is none that can be used."""
        task, self._spare = self._spare, None
        if task is None:
            return None
        if cancel:
            task.cancel()
        try:
            spare = await task
            if spare.is_alive:
                return spare
            await spare.kill()
        except FaultError as error:
            logger.warning("the spare desktop did not come up: %s", error)
        except asyncio.CancelledError:
            if not cancel:
                raise
        return None

    async def _proven_spare(self) -> Sandbox | None:
        """Return the spare, proven clean once more as it may have waited long; None where there is none to be used."""
        spare = await self._take_spare()
        if spare is None:
            return None
        try:
            await self._prove(spare, SPARE_PROOF_DEADLINE_S)
        except BaseException as error:
            await spare.kill()
            if not isinstance(error, FaultError):
                raise
            logger.warning("the spare desktop is of no use: %s", error)
            return None
        return spare

    def _adopt(self, sandbox: Sandbox) -> None:
        """Make `sandbox`, which is proven clean, the current one."""
        self._current = sandbox
        for name, forward in self._forwards.items():
            forward.lead_to(vars(sandbox.sockets)[name])
        self._watch = asyncio.create_task(self._report_end(sandbox), name="desktop watch")

    async def _report_end(self, sandbox: Sandbox) -> None:
        await asyncio.shield(sandbox.ended)
        if self._state in RUNS:
            self._state = DesktopState.FAILED
            fault = (await sandbox.failure("the desktop ended by itself")).fault
            logger.error("%s", fault.message)

    async def _discard(self) -> None:
        """End the current sandbox and everything that leads to it."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for forward in self._forwards.values():
            forward.lead_to(None)
        if self._current is not None:
            await self._current.kill()
            self._current = None


def _maker(settings: XvfbSettings) -> Maker:
    if settings.control is None:
        return BwrapMaker(settings)
    return ContainerMaker(settings, Control(settings.control, settings.guarded))
