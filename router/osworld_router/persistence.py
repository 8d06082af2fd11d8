"""A call tried until it succeeds or the policy gives up: which env server each attempt goes to, and the pauses."""

import functools
import logging
import time
from dataclasses import dataclass
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_contract.registry import RegistryEntry
from osworld_router.courier import CallFailed, Courier
from osworld_router.exchange import CallLimits, Exchange
from osworld_router.metrics import Metrics
from osworld_router.mover import Mover
from osworld_router.paces import Paces
from osworld_router.policy import Circumstances, Ending, Failure, Move, next_move
from osworld_router.rebuild import Rebuild
from osworld_router.recovery import Recovery
from osworld_router.resolve import Operation, Route, Snapshot, find
from osworld_router.snapshots import LiveRegistry

logger = logging.getLogger(__name__)

PAUSE_S: Final = 0.2
PAUSE_MAX_S: Final = 5.0
"""Pauses are random, up to twice as long each time, from the first to the second of these. Guesses: a process is back
after a second or two, and what stays away is not to be asked by a whole batch at once."""


REBUILT: Final = frozenset({Operation.STEP, Operation.EVALUATE})
"""Calls that go on with an episode: what is known of it has to be at hand before its env server can be lost."""

HEDGES_MAX: Final = 2
"""Moves that one reset may cost: a task that brings down every env server must not go through all of a pool."""


@dataclass(frozen=True)
class Carriers:
    """Who does what is decided on."""

    courier: Courier
    mover: Mover
    recovery: Recovery
    rebuild: Rebuild


class Persistence:
    """Tries calls again."""

    def __init__(self, registry: LiveRegistry, carriers: Carriers, limits: CallLimits, metrics: Metrics) -> None:
        self._registry = registry
        self._courier = carriers.courier
        self._mover = carriers.mover
        self._recovery = carriers.recovery
        self._rebuild = carriers.rebuild
        self._paces = Paces()
        self._limits = limits
        self._metrics = metrics

    async def deliver(self, exchange: Exchange) -> None:
        """Bring `exchange` to a reply that is passed on. There is no deadline here: the caller sets it.

        Raises:
            FaultError: How the last attempt ended; nothing has been sent to the client.
            TransferBroken: As `Courier.attempt` does.
            ClientGone: As `Courier.attempt` does.
        """
        if exchange.route.operation in REBUILT:
            await self._rebuild.rebuilt(exchange)
        call = _Tries(self, exchange)
        try:
            await call.attempt()
        except FaultError as error:
            call.failed = error
        else:
            return  # setting up the tries costs as much as all the rest of a call
        retrying = AsyncRetrying(
            retry=retry_if_exception(call.goes_on),
            wait=wait_random_exponential(multiplier=PAUSE_S, max=PAUSE_MAX_S),
            before_sleep=functools.partial(self._note, exchange),
            reraise=True,
        )
        await retrying(call.attempt)

    async def attempt(self, exchange: Exchange, move: Move | None) -> None:
        """Make one attempt, after `move` was decided on; None for the first."""
        exchange.attempts += 1
        if move is Move.RECOVER:
            exchange.entry = await self._recovery.recover(exchange)
        else:
            entry = await self._entry(exchange, move)
            if await self._recovery.is_elsewhere(exchange, entry):
                raise _gone(exchange)
            exchange.entry = entry
        can_hedge = self._can_hedge(exchange)
        patience_s = self._paces.patience_s(self._limits.hedge_after_s) if can_hedge and not exchange.hedges else None
        began = time.monotonic()
        try:
            await self._courier.attempt(exchange, exchange.entry, patience_s)
        except CallFailed as error:
            if can_hedge:
                exchange.hedges += 1
                await self._mover.move(exchange.entry)
            error.is_lost = await self._recovery.is_lost(exchange, exchange.entry, error.phase)
            raise
        if exchange.route.operation is Operation.RESET and exchange.reply.fault is None:
            self._paces.note(time.monotonic() - began)

    def _can_hedge(self, exchange: Exchange) -> bool:
        is_reset = exchange.route.operation is Operation.RESET
        return is_reset and self._mover.is_there and exchange.body.is_replayable and exchange.hedges < HEDGES_MAX

    def decide(self, exchange: Exchange, seconds: float) -> Move:
        """Return what to do about the last failure, `seconds` after the first."""
        now = Circumstances(
            is_replayable=exchange.body.is_replayable and exchange.reply.status is None,
            has_time=seconds < self._limits.retry_s,
            recoveries=exchange.recoveries,
            journal=self._recovery.journal(exchange),
        )
        return next_move(exchange.route.operation, exchange.failures, now)

    def _note(self, exchange: Exchange, _: RetryCallState) -> None:
        fault = exchange.failures[-1].fault
        self._metrics.retried(exchange.route.operation, fault)
        logger.info(
            "retry operation=%s env_idx=%d attempts=%d after %s: %s",
            exchange.route.operation,
            exchange.route.env_idx,
            exchange.attempts,
            fault.header,
            fault.message,
        )

    async def _entry(self, exchange: Exchange, move: Move | None) -> RegistryEntry:
        """Return the env server to ask next."""
        before, last = exchange.entry, exchange.failures[-1] if exchange.failures else None
        if move is Move.SAME_ENV and before is not None and last is not None:
            now = self._registry.snapshot.envs.get(exchange.route.env_idx)
            if now is None or now.uid != before.uid:  # its successor knows nothing of the episode
                is_elsewhere = await self._recovery.is_elsewhere(exchange, now)
                raise _gone(exchange) if is_elsewhere else FaultError(last.fault)
            return now
        if before is not None and last is not None and last.fault.reason is FaultReason.STALE_EPOCH:
            return await self._resolve_again(exchange.route, before)
        try:
            return await self._resolve(exchange.route)
        except FaultError as error:
            if error.fault.reason is FaultReason.ENV_DOWN and await self._recovery.is_elsewhere(exchange, None):
                raise _gone(exchange) from error
            raise

    async def _resolve(self, route: Route) -> RegistryEntry:
        """Return the env server of `route`, waiting for a call's env_idx that nobody has at the moment."""
        snapshot = self._registry.snapshot
        if route.env_idx not in snapshot.envs:
            if route.env_idx >= snapshot.known_envs:
                await self._registry.count()  # a router that has just started has not seen an env that is away
            wait_s = 0.0 if route.operation is Operation.PAGE else self._limits.env_wait_s
            snapshot = await self._registry.wait_for(lambda now: route.env_idx in now.envs, wait_s)
        return find(snapshot, route)

    async def _resolve_again(self, route: Route, stale: RegistryEntry) -> RegistryEntry:
        """Return the env server that has the env_idx after `stale`, which has it no longer."""

        def has_moved(now: Snapshot) -> bool:
            entry = now.envs.get(route.env_idx)
            return entry is not None and entry != stale

        await self._registry.refresh()
        return find(await self._registry.wait_for(has_moved, self._limits.env_wait_s), route)


def _gone(exchange: Exchange) -> CallFailed:
    """Return the failure of a call whose episode can be played again where its env_idx leads now."""
    message = f"env {exchange.route.env_idx}: the env server that had the episode is gone"
    fault = fault_error(FaultReason.ENV_DOWN, message, operation=exchange.route.operation.in_fault).fault
    return CallFailed(fault, Ending.UNREACHED, is_lost=True)


class _Tries:
    """The attempts at one call."""

    def __init__(self, persistence: Persistence, exchange: Exchange) -> None:
        self._persistence = persistence
        self._exchange = exchange
        self._move: Move | None = None
        self._first_failure = 0.0
        self.failed: FaultError | None = None
        """How the first attempt ended, which was made already: taken for that of the next."""

    async def attempt(self) -> None:
        if self.failed is not None:
            error, self.failed = self.failed, None
            raise error
        await self._persistence.attempt(self._exchange, self._move)

    def goes_on(self, error: BaseException) -> bool:
        """Note how an attempt failed, and decide."""
        if not isinstance(error, FaultError):
            return False
        now = time.monotonic()
        failures = self._exchange.failures
        self._first_failure = self._first_failure if failures else now
        ending = error.ending if isinstance(error, CallFailed) else Ending.ANSWERED
        is_lost = isinstance(error, CallFailed) and error.is_lost
        failures.append(Failure(error.fault, ending, is_lost))
        self._move = self._persistence.decide(self._exchange, now - self._first_failure)
        return self._move is not Move.GIVE_UP
