"""A call on its way through: resolve, send, pass the reply on, and end in a reply or a fault by its deadline."""

import asyncio
import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from osworld_contract.faults import Fault, FaultError, FaultReason, fault_error
from osworld_contract.registry import RegistryEntry
from osworld_router.asgi import Receive
from osworld_router.body import BodyLimits, RequestBody
from osworld_router.errors import ClientGone, TransferBroken, UpstreamError
from osworld_router.headers import end_to_end, idempotency_headers, upstream_headers, upstream_query
from osworld_router.metrics import BROKEN, CLIENT_GONE, Metrics
from osworld_router.policy import Move, next_move
from osworld_router.registry import RegistryFile
from osworld_router.reply import Reply, ends_v1_episode
from osworld_router.resolve import Operation, Request, Route, Snapshot, find
from osworld_router.scores import Scores
from osworld_router.screening import fault_instead
from osworld_router.upstream import Call, Headers, Upstream, UpstreamReply
from osworld_router.vigil import PROBE_INTERVAL_S, Vigil

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProxyLimits:
    """Times and sizes of calls."""

    deadlines_s: Mapping[Operation, float]
    env_wait_s: float
    body: BodyLimits


@dataclass
class Exchange:
    """One client's call while it is under way."""

    request: Request
    route: Route
    body: RequestBody
    reply: Reply
    keys: Headers
    """Headers by which every attempt at this call is known as the same."""
    entry: RegistryEntry | None = None
    """The env server that was asked last."""


class Proxy:
    """Passes calls to env servers."""

    def __init__(self, registry: RegistryFile, upstream: Upstream, limits: ProxyLimits, metrics: Metrics) -> None:
        self._registry = registry
        self._upstream = upstream
        self._limits = limits
        self._metrics = metrics
        self._scores = Scores()
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
        started = time.perf_counter()
        body = RequestBody(request, receive, self._limits.body)
        exchange = Exchange(request, route, body, reply, idempotency_headers(request, route))
        code = BROKEN
        try:
            await self._run(exchange)
            code = str(reply.status)
            self._note(exchange)
        except ClientGone as gone:
            code = CLIENT_GONE
            self._scores.lost(route.operation, route.env_idx)
            logger.info("%s env_idx=%d: %s", route.operation, route.env_idx, gone)
        except TransferBroken as broken:
            self._scores.lost(route.operation, route.env_idx)
            logger.warning("%s env_idx=%d: %s; the client's connection is cut", route.operation, route.env_idx, broken)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.request_ended(route.operation, code, seconds)
            logger.info(
                "call operation=%s env_idx=%d epoch=%s uid=%s code=%s seconds=%.3f%s",
                route.operation,
                route.env_idx,
                exchange.entry.epoch if exchange.entry else "-",
                exchange.entry.uid if exchange.entry else "-",
                code,
                seconds,
                f" fault={reply.fault.header}" if reply.fault else "",
            )

    def _note(self, exchange: Exchange) -> None:
        """Note whether the client has seen the env server's own reply."""
        route, fault = exchange.route, exchange.reply.fault
        if fault is not None:
            self._scores.failed(route.operation, route.env_idx, fault)
        else:
            self._scores.came_through(route.operation, route.env_idx)

    async def _run(self, exchange: Exchange) -> None:
        """Bring the call to its end: a passed on reply, or a fault."""
        timeout_s = self._limits.deadlines_s[exchange.route.operation]
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                self._running.add(deadline)
                try:
                    await exchange.body.prefetch()
                    if fault := self._scores.fault(exchange.route.operation, exchange.route.env_idx):
                        raise FaultError(fault)
                    await self._attempts(exchange)
                finally:
                    self._running.discard(deadline)
        except TimeoutError as error:
            fault = self._too_late(exchange.route, timeout_s)
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

    async def _attempts(self, exchange: Exchange) -> None:
        """Try until the policy gives up.

        Raises:
            FaultError: How the last attempt ended.
        """
        exchange.entry = await self._resolve(exchange.route)
        attempts = 0
        while True:
            attempts += 1
            try:
                return await self._attempt(exchange, exchange.entry)
            except FaultError as error:
                move = next_move(attempts, error.fault, is_replayable=exchange.body.is_replayable)
                if move is Move.GIVE_UP:
                    raise
            exchange.entry = await self._resolve_again(exchange.route, exchange.entry)

    async def _attempt(self, exchange: Exchange, entry: RegistryEntry) -> None:
        """Send the call to `entry` and pass its reply on.

        Raises:
            FaultError: There was no reply that could be passed on; nothing has been sent to the client.
            TransferBroken: It broke off in the middle.
            ClientGone: There is nobody to pass it to.
        """
        request, route, body = exchange.request, exchange.route, exchange.body
        call = Call(
            method=request.method,
            path=route.path,
            headers=upstream_headers(request, route, entry) + exchange.keys,
            query=upstream_query(request),
            body=body.data() if request.method == "POST" else None,
        )
        probe = functools.partial(self._upstream.is_alive, entry, PROBE_INTERVAL_S)
        started = time.perf_counter()
        try:
            async with Vigil(probe, body.client_gone), self._upstream.send(entry, call) as upstream_reply:
                await self._pass_on(exchange, upstream_reply)
        except (UpstreamError, TransferBroken) as error:
            if body.error is not None:
                raise body.error from error
            if exchange.reply.status is not None:
                raise TransferBroken(str(error)) from error
            phase, cause = (error.phase, error.cause) if isinstance(error, UpstreamError) else ("body", "")
            raise fault_error(
                FaultReason.ENV_DOWN,
                f"env {route.env_idx}: {error}",
                operation=route.operation.in_fault,
                uid=entry.uid,
                phase=phase,
                cause=cause,
            ) from error
        finally:
            self._metrics.attempt_ended(route.operation, time.perf_counter() - started)

    async def _pass_on(self, exchange: Exchange, upstream_reply: UpstreamReply) -> None:
        """Stream `upstream_reply` to the client, unless its status must not reach it."""
        fault = await fault_instead(upstream_reply, exchange.route, is_v2=exchange.request.is_v2)
        if fault is not None:
            raise FaultError(fault)
        reply = exchange.reply
        await reply.start(upstream_reply.status, end_to_end(upstream_reply.headers))
        async for chunk in upstream_reply.chunks():
            await reply.body(chunk, is_last=False)
        await reply.body(b"", is_last=True)

    def _too_late(self, route: Route, timeout_s: float) -> Fault:
        """Return the fault of a call that was ended by its deadline, or by `stop`."""
        operation = route.operation.in_fault
        if self._is_stopping:
            return fault_error(FaultReason.ENV_DOWN, "the router is being stopped", operation=operation).fault
        message = f"env {route.env_idx} did not answer within {timeout_s:g} s"
        return fault_error(FaultReason.ENV_TIMEOUT, message, operation=operation, timeout_s=timeout_s).fault

    async def _resolve(self, route: Route) -> RegistryEntry:
        """Return the env server of `route`, waiting for a call's env_idx that nobody has at the moment."""
        snapshot = self._registry.snapshot
        if route.env_idx not in snapshot.envs and route.operation is not Operation.PAGE:
            snapshot = await self._registry.wait_for(lambda now: route.env_idx in now.envs, self._limits.env_wait_s)
        return find(snapshot, route)

    async def _resolve_again(self, route: Route, stale: RegistryEntry) -> RegistryEntry:
        """Return the env server that has the env_idx after `stale`, which has it no longer."""

        def has_moved(now: Snapshot) -> bool:
            entry = now.envs.get(route.env_idx)
            return entry is not None and entry != stale

        await self._registry.refresh()
        return find(await self._registry.wait_for(has_moved, self._limits.env_wait_s), route)

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
