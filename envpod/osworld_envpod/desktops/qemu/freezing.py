"""Makes a task snapshot: a fork over RAM of its own, set up, at rest, saved, and proven by forks of it.

The machine that was set up stands by, stopped, until its snapshot is proven. If that fails it goes on as the desktop,
so that no reset pays for its setup twice.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.desktops.base import Setup
from osworld_envpod.desktops.qemu.argv import DirectBoot
from osworld_envpod.desktops.qemu.files import identity
from osworld_envpod.desktops.qemu.fork import Fork
from osworld_envpod.desktops.qemu.rest import Look, NotAtRestError, await_rest, look_at, moved_px
from osworld_envpod.desktops.qemu.template import PARTS, Template
from osworld_envpod.desktops.qemu.vm import Vm

FREEZE_LEAST_S: Final = 60.0
"""What the setup must leave of a reset's deadline for a snapshot to be tried. A guess with room: 8 s under emulation
beside light work."""

REST_MAX_S, REST_SHARE = 30.0, 0.25
"""For a guest to come to rest after its setup, at most, and of what is left of the deadline. A guess: a file manager
takes 4 s under emulation. A task that never rests loses this once, and again when its refusal has lapsed."""

PROOF_MAX_S, PROOF_SHARE = 45.0, 0.15
"""For one fork's proof, likewise. A guess with room: 2 s on an idle machine."""

PROOFS: Final = 2
"""Forks that must show what the machine showed when it was frozen."""

SETTLE_S: Final = 5.0
"""How long a fork is looked at again until it does: a caret blinks, and a clock that was stepped is drawn anew."""

GO_ON_DEADLINE_S: Final = 30.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What forks are made of."""

    vm: Vm
    template: Template

    async def fork(self, folder: Path) -> Fork:
        """Return a fork, loaded and paused.

        Raises:
            FaultError: As `Fork.load`.
        """
        return await Fork.load(self.vm, self.template, folder)


@dataclass(frozen=True)
class Proof:
    """What forks must show, where their files are, and how long each may take."""

    look: Look
    folder: Path
    deadline_s: float


@dataclass(frozen=True)
class Frozen:
    """What became of a setup: `look` where a snapshot lies in the folder, else the machine itself, and why."""

    look: Look | None = None
    machine: Fork | None = None
    reason: str = ""


async def freeze(origin: Origin, setup: Setup, folder: Path, proof: Path, end: float) -> Frozen:
    """Set a task up in a machine with its files in `folder`, and freeze it there. Proof forks lie in `proof`.

    Raises:
        FaultError: The setup failed, or the machine was lost. Nothing is left running.
        OSError: The files could not be made.
    """
    builder = await Fork.load_copy(origin.vm, origin.template, folder)
    async with builder.ended_on_failure():
        await builder.wake(end - time.monotonic())
        reason = await setup(builder.addresses, end - time.monotonic())
        if not reason and end - time.monotonic() < FREEZE_LEAST_S:
            reason = "its setup left too little of the reset's deadline"
        if reason:
            return Frozen(machine=builder, reason=reason)
        try:
            rest_s = min(REST_MAX_S, (end - time.monotonic()) * REST_SHARE)
            look = await await_rest(builder.machine, builder.addresses, rest_s)
        except NotAtRestError as error:
            return Frozen(machine=builder, reason=str(error))
        await builder.machine.save(folder / "state")
        proof_s = min(PROOF_MAX_S, (end - time.monotonic()) * PROOF_SHARE)
        reason = await _unlike(Proof(look, proof, proof_s), origin, folder)
        if reason:
            await builder.wake_set_up(None, GO_ON_DEADLINE_S)
            return Frozen(machine=builder, reason=reason)
        # What it held was written when it was saved, and the proofs have read it.
        await builder.machine.kill()
    files = builder.machine.files
    stubs = (files.boot.kernel, files.boot.initrd) if isinstance(files.boot, DirectBoot) else ()
    for left in (files.console, *stubs):
        left.unlink(missing_ok=True)
    return Frozen(look=look)


async def _unlike(proof: Proof, origin: Origin, folder: Path) -> str:
    """Return in what forks of the snapshot in `folder` differ from what they must show, empty if in nothing.

    One may fail: it may have met a busy machine.
    """
    identities = tuple(identity(folder / name) for name in PARTS)
    frozen = Origin(origin.vm, Template(folder, identities, lock=-1))
    passed, failed = 0, ""
    while passed < PROOFS:
        reason = await _one_unlike(proof, frozen)
        if not reason:
            passed += 1
        elif failed:
            return reason
        else:
            logger.info("task snapshot: a proof failed: %s", reason)
            failed = reason
    return ""


async def _one_unlike(proof: Proof, frozen: Origin) -> str:
    try:
        fork = await frozen.fork(proof.folder)
        try:
            async with fork.ended_on_failure():
                await fork.wake_set_up(proof.look.windows, proof.deadline_s)
                # A program that a fork disturbs, as by its clock, may take seconds to show it.
                await await_rest(fork.machine, fork.addresses, proof.deadline_s)
                return await _settled(proof, fork)
        finally:
            await fork.kill()
    except NotAtRestError as error:
        return f"a fork is {error}"
    except FaultError as error:
        if error.fault.reason is FaultReason.DISK_FULL:
            raise
        return str(error)


async def _settled(proof: Proof, fork: Fork) -> str:
    end = time.monotonic() + SETTLE_S
    while True:
        seen = await look_at(fork.addresses, proof.deadline_s)
        area = moved_px(proof.look, seen) if seen is not None else 0
        if seen is not None and not area:
            return ""
        if time.monotonic() > end:
            return "a fork does not list its windows" if seen is None else f"a fork's screen differs in {area} pixels"
