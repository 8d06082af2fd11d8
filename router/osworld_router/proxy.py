"""A call from its arrival to its end: a reply that was passed on, or a fault, by its deadline."""

import asyncio
import logging
import time
from dataclasses import dataclass
from http import HTTPStatus

from osworld_contract.faults import Fault, FaultError, FaultReason, fault_error
from osworld_router.acks import Acks
from osworld_router.asgi import Receive
from osworld_router.body import RequestBody
from osworld_router.ends import Ends
from osworld_router.errors import ClientGone, TransferBroken
from osworld_router.exchange import CallLimits, Exchange
from osworld_router.headers import idempotency_headers
from osworld_router.metrics import BROKEN, CLIENT_GONE, Metrics
from osworld_router.peers import Peers
from osworld_router.persistence import Persistence
from osworld_router.reply import RawHeaders, Reply, ends_v1_episode
from osworld_router.resolve import Operation, Request, Route
from osworld_router.scores import Scores
from osworld_router.scribe import Scribe
from osworld_router.sinks import Pieces
from osworld_router.vigil import Vigil

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notes:
    """Who is told of replies that arrived, and asked about them."""

    acks: Acks
    scribe: Scribe
    scores: Scores
    peers: Peers
    ends: Ends


class Proxy:
    """Passes calls to env servers."""

    def __init__(self, persistence: Persistence, notes: Notes, limits: CallLimits, metrics: Metrics) -> None:
        self._persistence = persistence
        self._acks = notes.acks
        self._scribe = notes.scribe
        self._scores = notes.scores
        self._peers = notes.peers
        self._ends = notes.ends
        self._limits = limits
        self._metrics = metrics
        self._running: set[asyncio.Timeout] = set()
        self._is_stopping = False

    def stop(self) -> None:
        """End the calls that are still running, each with a fault. Can be called twice."""
        self._is_stopping = True
        now = asyncio.get_running_loop().time()
        for deadline in self._running:
            if not deadline.expired():
                deadline.reschedule(now)

    async def handle(self, request: Request, route: Route, receive: Receive, reply: Reply) -> None:
        """Answer `request`; returns with an unfinished reply where the client's connection has to be cut."""
        started, now = time.perf_counter(), time.monotonic()
        body = RequestBody(request, receive, self._limits.body)
        keys, ends_at = idempotency_headers(request, route), now + self._limits.deadlines_s[route.operation]
        exchange = Exchange(request, route, body, reply, keys, self._told, arrived=now, ends_at=ends_at)
        exchange.is_unseen = self._scores.is_unseen(request, route)
        exchange.ended = self._ends.headers(route)
        code = BROKEN
        try:
            await self._run(exchange)
            code = str(reply.status)
            self._note(exchange)
        except ClientGone as gone:
            code = CLIENT_GONE
            self._lost(exchange)
            logger.info("%s env_idx=%d: %s", route.operation, route.env_idx, gone)
        except TransferBroken as broken:
            self._lost(exchange)
            reply.cut()
            logger.warning("%s env_idx=%d: %s; the client's connection is cut", route.operation, route.env_idx, broken)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.request_ended(route.operation, code, seconds)
            logger.info(
                "call operation=%s env_idx=%d epoch=%s uid=%s code=%s attempts=%d seconds=%.3f%s",
                route.operation,
                route.env_idx,
                exchange.entry.epoch if exchange.entry else "-",
                exchange.entry.uid if exchange.entry else "-",
                code,
                exchange.attempts,
                seconds,
                f" fault={reply.fault.header}" if reply.fault else "",
            )

    def _told(self, exchange: Exchange, status: int, headers: RawHeaders, body: Pieces) -> None:
        """Note that the last of the env server's reply is about to be sent."""
        exchange.is_told = True
        self._scores.came_through(exchange.route.operation, exchange.route.env_idx)
        self._ends.passed(exchange, status, headers)
        self._scribe.passed(exchange, status, headers, body)

    def _lost(self, exchange: Exchange) -> None:
        """Note that the client may not have the reply."""
        operation = exchange.route.operation
        self._scores.lost(operation, exchange.route.env_idx)
        lost = fault_error(FaultReason.REPLY_LOST, "the reply reached nobody", operation=operation.in_fault)
        self._ends.failed(exchange, lost.fault)
        self._scribe.forget(exchange)

    def _note(self, exchange: Exchange) -> None:
        """Note whether the client has seen the env server's own reply."""
        route, fault = exchange.route, exchange.reply.fault
        if fault is not None:
            self._scores.failed(route.operation, route.env_idx, fault)
            self._ends.failed(exchange, fault)
            self._scribe.forget(exchange)
        else:
            if not exchange.is_told:
                self._scribe.forget(exchange)  # its reply was too long to be held
            self._scores.came_through(route.operation, route.env_idx)
            self._acks.send(exchange)

    async def _run(self, exchange: Exchange) -> None:
        """Bring the call to its end: a passed on reply, or a fault."""
        timeout_s = self._limits.deadlines_s[exchange.route.operation]
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                self._running.add(deadline)
                try:
                    await exchange.body.prefetch()
                    await self._check_score(exchange)
                    async with Vigil(client_gone=exchange.body.client_gone):
                        await self._persistence.deliver(exchange)
                finally:
                    self._running.discard(deadline)
        except TimeoutError as error:
            fault = self._too_late(exchange, timeout_s)
            if exchange.reply.status is not None:
                raise TransferBroken(fault.message) from error
            await self._answer(exchange, fault)
        except FaultError as error:
            if exchange.reply.status is not None:
                raise TransferBroken(str(error)) from error
            await self._answer(exchange, error.fault)
        except (ClientGone, TransferBroken):
            raise
        except Exception as defect:
            logger.exception("defect in a %s", exchange.route.operation)
            if exchange.reply.status is not None:
                raise TransferBroken("a defect of the router") from defect
            await self._answer(
                exchange, fault_error(FaultReason.INTERNAL, operation=exchange.route.operation.in_fault).fault
            )

    async def _check_score(self, exchange: Exchange) -> None:
        """Return unless `exchange` is an evaluate whose score would be about something that its client has not seen.

        Raises:
            FaultError: That of the reset or step that failed, or ``reply_lost`` where that was at another router.
        """
        request, route = exchange.request, exchange.route
        if fault := self._scores.fault(request, route):
            raise FaultError(fault)
        if route.operation is Operation.EVALUATE and not request.is_seen_told and not exchange.is_unseen:
            await self._peers.check_score(exchange)

    def _too_late(self, exchange: Exchange, timeout_s: float) -> Fault:
        """Return the fault of a call that was ended by its deadline, or by `stop`."""
        route = exchange.route
        operation = route.operation.in_fault
        if self._is_stopping:
            return fault_error(FaultReason.ENV_DOWN, "the router is being stopped", operation=operation).fault
        if exchange.failures:
            return exchange.failures[-1].fault
        message = f"env {route.env_idx} did not answer within {timeout_s:g} s"
        return fault_error(FaultReason.ENV_TIMEOUT, message, operation=operation, timeout_s=timeout_s).fault

    async def _answer(self, exchange: Exchange, fault: Fault) -> None:
        """Send `fault` in the form that this client and operation need."""
        self._metrics.fault_answered(fault)
        logger.log(
            logging.WARNING if fault.status >= HTTPStatus.INTERNAL_SERVER_ERROR else logging.INFO,
            "fault %s: %s %s",
            fault.header,
            fault.message,
            fault.evidence,
        )
        is_v1_step = exchange.route.operation is Operation.STEP and not exchange.request.is_v2
        if is_v1_step and ends_v1_episode(fault):
            await exchange.reply.faulted_step(exchange.route.env_idx, fault)
        else:
            await exchange.reply.error(fault)
