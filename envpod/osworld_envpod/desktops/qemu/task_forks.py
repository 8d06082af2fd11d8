"""The desktops of tasks, for one env server: forked from a task snapshot, which is made where there is none yet.

Whatever goes wrong with snapshots leads to the plain way, a fresh fork and the task's own setup: at once where nothing
was done yet, else by the fault that makes the reset try again, for a while without them.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.desktops.base import GuestAddresses, Setup, TaskState
from osworld_envpod.desktops.qemu.files import hold
from osworld_envpod.desktops.qemu.fork import Fork
from osworld_envpod.desktops.qemu.freezing import Origin, freeze
from osworld_envpod.desktops.qemu.snapshots import Snapshot, SnapshotStore, host_boot_id
from osworld_envpod.desktops.qemu.template import MANIFEST, Template

WAIT_SHARE: Final = 0.5
"""Part of a reset's deadline that it waits for another env server that makes the snapshot. The rest is for its own
setup."""

SERVE_SHARE: Final = 0.25
"""Part of what is left that one fork of a snapshot may take to wake: two are tried, and the plain way must fit after
them."""

AVOIDED_S: Final = 600.0
"""How long this env server sets a task up plainly after its snapshot failed here. A guess: longer than a reset's
deadline, so that the retry is plain; shorter than an outage is remembered."""

logger = logging.getLogger(__name__)


@dataclass
class Lease:
    """A snapshot that is there, or the right to make it. Close it."""

    key: str
    snapshot: Snapshot | None
    claim: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def close(self) -> None:
        """Give back what is held."""
        if self.snapshot is not None:
            self.snapshot.template.release()
            self.snapshot = None
        await self.claim.aclose()


class TaskForks:
    """Forks with a task set up, from the snapshots in `store`."""

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self._avoided: dict[str, float] = {}

    async def lease(self, key: str, template: Template, deadline_s: float) -> Lease | None:
        """Return the snapshot of `key` over `template` or the right to make it; None where the plain way is to be gone.

        Waits for who makes it, but not all of `deadline_s`.
        """
        try:
            template.check()
            key = _name(key, template)
        except (OSError, FaultError):  # the template is gone or was changed, which the plain way puts right
            return None
        if time.monotonic() < self._avoided.get(key, 0.0):
            return None
        if (snapshot := await asyncio.to_thread(self._store.find, key)) is not None:
            return Lease(key, snapshot)
        return None if self._store.is_refused(key) else await self._claimed(key, template, deadline_s)

    async def _claimed(self, key: str, template: Template, deadline_s: float) -> Lease | None:
        lease = Lease(key, None)
        is_given = False
        try:
            async with asyncio.timeout(deadline_s * WAIT_SHARE):
                await lease.claim.enter_async_context(self._store.claim(key))
            # Made, or refused, while this one waited.
            lease.snapshot = await asyncio.to_thread(self._store.find, key)
            needed_bytes = template.part("ram").stat().st_size
            if lease.snapshot is not None:
                await lease.claim.aclose()
                is_given = True
            elif await asyncio.to_thread(self._store.has_room, needed_bytes):
                is_given = not self._store.is_refused(key)
            else:
                self._avoid(key, f"the disk has no room for {needed_bytes >> 20} MiB")
        except TimeoutError:
            self._avoid(key, "it is being made elsewhere, and not done in time")
        except OSError as error:
            self._avoid(key, f"the store cannot be used: {error}")
        finally:
            if not is_given:
                await lease.close()
        return lease if is_given else None

    async def fork(
        self, lease: Lease, origin: Origin, setup: Setup, folder: Path, end: float
    ) -> tuple[Fork, TaskState]:
        """Return a running fork with the task set up, with its files in `folder` or beside it.

        Raises:
            FaultError: The setup's, or what the machine failed with; then the next lease of this task is plain.
            OSError: As above.
        """
        if lease.snapshot is not None:
            return await self._served(lease, lease.snapshot, origin, folder, end), TaskState.FORKED
        is_set_up = False

        async def noted(addresses: GuestAddresses, deadline_s: float) -> str:
            nonlocal is_set_up
            reason = await setup(addresses, deadline_s)
            is_set_up = True
            return reason

        try:
            with self._store.building() as building:
                frozen = await freeze(origin, noted, building, folder.with_name(f"{folder.name}-proof"), end)
                if frozen.machine is not None:
                    self._store.refuse(lease.key, frozen.reason)
                    frozen.machine.held = hold(building)
                    return frozen.machine, TaskState.SET_UP
                assert frozen.look is not None
                publish = self._store.publish
                lease.snapshot = await asyncio.to_thread(publish, building, lease.key, frozen.look.windows)
        except BaseException as error:
            if is_set_up:  # else it is the setup's own fault, or a machine's that any fork may have
                self._avoid(lease.key, str(error) or type(error).__name__)
            raise
        return await self._served(lease, lease.snapshot, origin, folder, end), TaskState.SET_UP

    async def _served(self, lease: Lease, snapshot: Snapshot, origin: Origin, folder: Path, end: float) -> Fork:
        """Return a fork of the snapshot; one that fails may have met a busy machine, a second one may not."""
        frozen = Origin(origin.vm, snapshot.template)
        try:
            return await _woken(frozen, snapshot.windows, folder, end)
        except FaultError as error:
            logger.warning("task snapshot %s: a fork of it failed, another one is tried: %s", lease.key, error)
        try:
            return await _woken(frozen, snapshot.windows, folder, end)
        except FaultError as error:
            self._avoid(lease.key, str(error))
            if error.fault.reason is not FaultReason.DISK_FULL:
                self._store.throw_away(lease.key)
                logger.error("task snapshot %s: thrown away", lease.key)  # noqa: TRY400 - raised, and logged there
            raise

    def _avoid(self, key: str, reason: str) -> None:
        logger.warning("task snapshot %s: not used for %.0f s: %s", key, AVOIDED_S, reason)
        self._avoided[key] = time.monotonic() + AVOIDED_S


async def _woken(frozen: Origin, windows: str, folder: Path, end: float) -> Fork:
    fork = await frozen.fork(folder)
    async with fork.ended_on_failure():
        await fork.wake_set_up(windows, (end - time.monotonic()) * SERVE_SHARE)
    return fork


def _name(key: str, template: Template) -> str:
    """Return the name of the snapshot of `key` over `template`: one that was made again is another one.

    The boot of this machine counts too, where several of them share a store.
    """
    manifest = (template.folder / MANIFEST).read_bytes()
    parts = (key.encode(), manifest, host_boot_id().encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]
