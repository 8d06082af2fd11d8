"""One attempt at a call: send it to an env server, and pass the reply on.

The replies that an episode is made of are held until they are whole: one that breaks off can be asked for again, and a
client that has seen half of it would take it for an error.
"""

import asyncio
import functools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from osworld_contract.faults import Fault, FaultError, FaultReason, fault_error
from osworld_contract.names import HEADER_UNSEEN
from osworld_contract.registry import RegistryEntry
from osworld_router.errors import EnvLost, TransferBroken, UpstreamError
from osworld_router.exchange import Exchange
from osworld_router.headers import end_to_end, upstream_headers, upstream_query
from osworld_router.metrics import Metrics
from osworld_router.policy import Ending
from osworld_router.reply import RawHeaders
from osworld_router.resolve import Operation
from osworld_router.screening import fault_instead, lost_part
from osworld_router.scribe import SIGHT, Scribe
from osworld_router.sinks import Held
from osworld_router.upstream import Call, Upstream, UpstreamReply
from osworld_router.vigil import PROBE_INTERVAL_S, Vigil

HELD: Final = frozenset({Operation.RESET, Operation.STEP, Operation.EVALUATE})

HELD_BYTES: Final = 32 * 1024 * 1024
"""Longer replies are passed on as they come. A guess: fifteen screenshots have 10 to 25 MB."""


class CallFailed(FaultError):
    """An attempt that brought no whole reply, of which nothing has been sent to the client."""

    def __init__(self, fault: Fault, ending: Ending, phase: str = "", *, is_lost: bool = False) -> None:
        super().__init__(fault)
        self.ending = ending
        self.phase = phase
        self.is_lost = is_lost
        """As in `policy.Failure`."""


class Courier:
    """Makes attempts."""

    def __init__(self, upstream: Upstream, metrics: Metrics, scribe: Scribe) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self._scribe = scribe

    async def attempt(self, exchange: Exchange, entry: RegistryEntry, patience_s: float | None = None) -> None:
        """Send the call to `entry` and pass its reply on. A held reply must be whole within `patience_s`.

        Raises:
            CallFailed: The env server could not be reached, or its reply was lost.
            FaultError: There was a reply that must not be passed on.
            TransferBroken: It broke off when a part of it had been sent to the client.
            ClientGone: The client closed its connection in the middle of its body or of the reply.
        """
        started = time.perf_counter()
        try:
            await self._carry(exchange, entry, patience_s)
        except (UpstreamError, TransferBroken) as error:
            if exchange.body.error is not None:
                raise exchange.body.error from error
            if exchange.reply.status is not None:
                raise TransferBroken(str(error)) from error
            failed = _failed(exchange, entry, error)
            if failed.ending is Ending.LOST:
                self._scribe.sent(exchange)
            raise failed from error
        except (FaultError, asyncio.CancelledError):
            self._scribe.sent(exchange)
            raise
        finally:
            self._metrics.attempt_ended(exchange.route.operation, time.perf_counter() - started)

    async def _carry(self, exchange: Exchange, entry: RegistryEntry, patience_s: float | None) -> None:
        request, route, body = exchange.request, exchange.route, exchange.body
        unseen = [(HEADER_UNSEEN, "1")] if exchange.is_unseen else []
        call = Call(
            method=request.method,
            path=route.path,
            headers=[*upstream_headers(request, route, entry), *exchange.keys, *unseen, *exchange.ended],
            query=upstream_query(request),
            body=body.data() if request.method == "POST" else None,
        )
        probe = functools.partial(self._upstream.is_alive, entry, PROBE_INTERVAL_S)
        async with (
            _patience(patience_s) as patience,
            Vigil(probe=probe),
            self._upstream.send(entry, call) as upstream_reply,
        ):
            fault = await fault_instead(upstream_reply, route, is_v2=request.is_v2)
            if fault is None and self._scribe.journal(exchange) is not None:
                fault = await lost_part(upstream_reply, route)
            if fault is not None:
                raise FaultError(fault)
            status, headers = upstream_reply.status, end_to_end(upstream_reply.headers)
            held = await upstream_reply.hold(HELD_BYTES) if route.operation in HELD else None
            patience.reschedule(None)
            is_whole = held is not None and upstream_reply.is_complete
            if not is_whole:
                await _send(exchange, status, headers, held, upstream_reply)
        if is_whole:
            await _send(exchange, status, headers, held, None)


@asynccontextmanager
async def _patience(seconds: float | None) -> AsyncIterator[asyncio.Timeout]:
    """End what is inside after `seconds`, as an env server that is lost.

    Raises:
        EnvLost: It took longer.
    """
    try:
        async with asyncio.timeout(seconds) as patience:
            yield patience
    except TimeoutError as error:
        if not patience.expired():
            raise
        raise EnvLost(f"the env server took over {seconds:g} s", phase="patience") from error


async def _send(
    exchange: Exchange, status: int, headers: RawHeaders, held: Held | None, rest: UpstreamReply | None
) -> None:
    """Send the client what was held, and then what is still coming."""
    reply = exchange.reply
    pieces = held.pieces if held is not None else []
    is_whole = held is not None and rest is None
    if is_whole and not pieces:
        exchange.on_last_byte(exchange, status, headers, pieces)
    is_shown = exchange.request.is_v2  # whose client may keep a journal of its own
    await reply.start(status, [pair for pair in headers if is_shown or pair[0] != SIGHT])
    await reply.pieces(pieces)
    if is_whole and pieces:  # the last byte is kept back: noted while the client reads the others
        exchange.on_last_byte(exchange, status, headers, pieces)
    if rest is not None:
        await reply.passed(rest)
    await reply.drained()
    if held is not None:
        held.release()
    await reply.end()


def _failed(exchange: Exchange, entry: RegistryEntry, error: UpstreamError | TransferBroken) -> CallFailed:
    phase, cause = (error.phase, error.cause) if isinstance(error, UpstreamError) else ("body", "")
    fault = fault_error(
        FaultReason.ENV_DOWN,
        f"env {exchange.route.env_idx}: {error}",
        operation=exchange.route.operation.in_fault,
        uid=entry.uid,
        phase=phase,
        cause=cause,
    ).fault
    return CallFailed(fault, Ending.UNREACHED if phase == "connect" else Ending.LOST, phase)
