"""Brings a lost episode to another env server, or to a fresh desktop of its own: asks for a spare, has it play again.

What may be played again, `policy.refusal` decides; the comparison of what was seen is the env server's.
"""

import asyncio
import functools
import logging
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from pydantic import ValidationError

from osworld_contract.faults import Fault, FaultBody, FaultError, FaultKind, FaultReason, fault_error
from osworld_contract.registry import RegistryEntry
from osworld_contract.replay import REPLAY_PATH, ReplayReply
from osworld_router.courier import CallFailed
from osworld_router.errors import TransferBroken, UpstreamError
from osworld_router.exchange import Exchange
from osworld_router.headers import addressee
from osworld_router.journal import Journal
from osworld_router.metrics import Metrics
from osworld_router.mover import Mover
from osworld_router.peers import Elsewhere, Peers
from osworld_router.policy import Ending, Refusal, refusal
from osworld_router.rebuild import Rebuild
from osworld_router.scribe import Scribe
from osworld_router.snapshots import LiveRegistry
from osworld_router.upstream import Call, Upstream
from osworld_router.vigil import PROBE_INTERVAL_S, Vigil

logger = logging.getLogger(__name__)

SUCCESSOR_WAIT_S: Final = 150.0
"""How long a pool without a spare is waited for to have the env_idx served again. The next reset of it would wait for
the same env server, and of 270 s a step has its own 120 left. A pod on another node takes 20 to 100 s."""

LOOK_AGAIN_S: Final = 0.5
"""Between two looks whether a lost env server has come back meanwhile. A guess."""

STALE_S: Final = 5.0
"""How long the registry may lag behind an env server that says it has lost the env_idx. A guess, as for other calls."""

ALIVE_S: Final = 0.5
"""How long an env server whose connection broke may take to say that it lives. A guess: it answers from memory."""


@dataclass(frozen=True)
class RecoveryTools:
    """What a recovery needs of the rest of the router."""

    registry: LiveRegistry
    mover: Mover
    upstream: Upstream
    scribe: Scribe
    peers: Peers
    rebuild: Rebuild


class Recovery:
    """Plays lost episodes again."""

    def __init__(self, tools: RecoveryTools, metrics: Metrics) -> None:
        self._registry = tools.registry
        self._mover = tools.mover
        self._upstream = tools.upstream
        self._scribe = tools.scribe
        self._peers = tools.peers
        self._rebuild = tools.rebuild
        self._metrics = metrics

    def journal(self, exchange: Exchange) -> Journal | None:
        """Return what is known of the episode of `exchange`."""
        return self._scribe.journal(exchange)

    async def is_elsewhere(self, exchange: Exchange, entry: RegistryEntry | None) -> bool:
        """Return whether the episode can be played again, and `entry`, which has its env_idx, knows nothing of it.

        `entry` is asked: another router may have brought the episode there, or begun the next one.
        """
        journal = self._scribe.journal(exchange)
        if journal is not None and entry is not None and entry.uid != journal.uid:
            await self._rebuild.look_up(entry.env_idx)
            journal = self._scribe.journal(exchange)
        if journal is None or refusal(exchange.route.operation, journal) is not None:
            return False
        return entry is None or entry.uid != journal.uid

    async def is_lost(self, exchange: Exchange, entry: RegistryEntry, error_phase: str) -> bool:
        """Return whether an env server whose connection broke in `error_phase` is gone, and can be replaced."""
        journal = self._scribe.journal(exchange)
        if journal is None or refusal(exchange.route.operation, journal) is not None:
            return False
        return error_phase == "probe" or not await self._upstream.is_alive(entry, ALIVE_S)

    async def recover(self, exchange: Exchange) -> RegistryEntry:
        """Return the env server that has the episode again, for the lost call to go to.

        Raises:
            FaultError: There is none: the fault of the lost call with the refusal in its evidence, or what went wrong
                in the replay.
        """
        exchange.recoveries += 1
        began, lost = time.monotonic(), exchange.failures[-1].fault
        journal = self._scribe.journal(exchange)
        assert journal is not None, "the policy has refused"
        try:
            await self._check_peers(exchange, journal)
            entry, has_episode = await self._heir(exchange, journal)
            reply = None if has_episode else await self._play(exchange, entry, journal)
        except _Refused as error:
            self._note(exchange, error.refusal.value, began)
            evidence = lost.evidence | {"recovery": error.refusal.value}
            raise FaultError(lost.model_copy(update={"evidence": evidence})) from error
        except FaultError as error:
            has_diverged = error.fault.reason is FaultReason.REPLAY_DIVERGED
            self._note(exchange, "diverged" if has_diverged else "failed", began, str(error))
            raise
        if reply is not None:
            journal.moved(entry.uid, reply.episode_id)
            exchange.recovered = time.monotonic()
        self._note(exchange, "came_back" if reply is None else "recovered", began)
        return entry

    def _note(self, exchange: Exchange, result: str, began: float, why: str = "") -> None:
        self._metrics.recovered(result)
        logger.log(
            logging.INFO if result == "recovered" else logging.WARNING,
            "recovery operation=%s env_idx=%d result=%s seconds=%.3f%s",
            exchange.route.operation,
            exchange.route.env_idx,
            result,
            time.monotonic() - began,
            f": {why}" if why else "",
        )

    async def _check_peers(self, exchange: Exchange, journal: Journal) -> None:
        """Return if the journal is known to end with what the client has seen last.

        Raises:
            _Refused: ``another_router``.
        """
        if exchange.request.is_seen_told:
            return  # what the client says of it was compared already
        if await self._peers.since(exchange.route.env_idx, journal.whole_at) is not Elsewhere.NOTHING:
            raise _Refused(Refusal.ANOTHER_ROUTER)

    async def _heir(self, exchange: Exchange, journal: Journal) -> tuple[RegistryEntry, bool]:
        """Return the env server that is to go on, and whether it has the episode: it was frozen, and there is no other.

        Raises:
            _Refused: ``no_spare``.
        """
        env_idx, failure = exchange.route.env_idx, exchange.failures[-1]
        now = self._registry.snapshot.envs.get(env_idx)
        if not failure.is_lost and now is not None and now == exchange.entry:
            return now, False  # it lives, and has a fresh desktop
        lost = exchange.lost_uids
        lost.add(journal.uid)
        if now is not None and now.uid in lost:
            await self._mover.move(now, "recovery")
        last_look_s = LOOK_AGAIN_S + ALIVE_S
        end = time.monotonic() + min(SUCCESSOR_WAIT_S, self._left_s(exchange) - journal.replay_s - last_look_s)
        while True:
            snapshot = await self._registry.wait_for(
                lambda found: env_idx in found.envs and found.envs[env_idx].uid not in lost, LOOK_AGAIN_S
            )
            entry = snapshot.envs.get(env_idx)
            if entry is not None and entry.uid not in lost:
                return entry, False
            if entry is not None and entry.uid == journal.uid and (state := await self._upstream.state(entry, ALIVE_S)):
                return entry, state.episode_id == journal.mark.episode_id  # else it was started again in its pod
            if time.monotonic() > end:
                raise _Refused(Refusal.NO_SPARE)

    async def _play(self, exchange: Exchange, entry: RegistryEntry, journal: Journal) -> ReplayReply:
        """Have `entry` bring the episode to where it was."""
        left_s = self._left_s(exchange)
        pause_s = journal.pause_s(exchange.arrived)
        if journal.replay_s + pause_s > left_s:
            raise _Refused(Refusal.NO_TIME)
        operation = exchange.route.operation.in_fault
        headers = [("Content-Type", "application/json"), *addressee(exchange.route, entry)]
        call = Call("POST", REPLAY_PATH, headers, body=b"".join(journal.document(pause_s)))
        probe = functools.partial(self._upstream.is_alive, entry, PROBE_INTERVAL_S)
        try:
            async with asyncio.timeout(left_s), Vigil(probe=probe), self._upstream.send(entry, call) as reply:
                status, text = reply.status, await reply.snippet()
            if status == HTTPStatus.OK:
                return ReplayReply.model_validate_json(text)
            fault: Fault = FaultBody.model_validate_json(text).fault
        except (UpstreamError, TransferBroken, TimeoutError, ValidationError) as error:
            message = f"the env server that was to play the episode again did not: {type(error).__name__}: {error}"
            lost = fault_error(FaultReason.ENV_DOWN, message[:500], operation=operation, uid=entry.uid)
            exchange.lost_uids.add(entry.uid)
            raise CallFailed(lost.fault, Ending.UNREACHED, is_lost=True) from error
        if fault.kind is FaultKind.CLIENT:  # of which this router is to blame, and its client knows nothing
            refused = f"the env server that was to play the episode again refused: {fault.header}: {fault.message}"
            lost = fault_error(FaultReason.ENV_DOWN, refused, operation=operation, uid=entry.uid, status=status)
            if status == HTTPStatus.MISDIRECTED_REQUEST:
                await self._await_other(entry)
                raise CallFailed(lost.fault, Ending.UNREACHED, is_lost=True)
            raise lost
        raise FaultError(fault.model_copy(update={"operation": operation, "masked": True}))

    async def _await_other(self, stale: RegistryEntry) -> None:
        """Return when `stale`, which has the env_idx no longer, is not in the registry any more, or soon after."""
        await self._registry.refresh()
        await self._registry.wait_for(lambda now: now.envs.get(stale.env_idx) != stale, STALE_S)

    @staticmethod
    def _left_s(exchange: Exchange) -> float:
        return exchange.ends_at - time.monotonic()


class _Refused(Exception):
    """The episode is not played again."""

    def __init__(self, refused: Refusal) -> None:
        super().__init__(refused.value)
        self.refusal = refused
