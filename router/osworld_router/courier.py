"""One attempt at a call: send it to an env server, and pass the reply on.

The replies that an episode is made of are held until they are whole: one that breaks off can be asked for again, and a
client that has seen half of it would take it for an error.
"""

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

from osworld_contract.faults import Fault, FaultError, FaultReason, fault_error
from osworld_contract.names import HEADER_UNSEEN
from osworld_contract.registry import RegistryEntry
from osworld_router.errors import ClientGone, EnvLost, TransferBroken, UpstreamError
from osworld_router.exchange import Exchange
from osworld_router.headers import end_to_end, upstream_headers, upstream_query
from osworld_router.metrics import Metrics
from osworld_router.policy import Ending
from osworld_router.reply import RawHeaders
from osworld_router.resolve import Operation
from osworld_router.screening import fault_instead
from osworld_router.upstream import Call, Upstream
from osworld_router.vigil import PROBE_INTERVAL_S, Vigil

HELD: Final = frozenset({Operation.RESET, Operation.STEP, Operation.EVALUATE})

HELD_BYTES: Final = 32 * 1024 * 1024
"""Longer replies are passed on as they come. A guess: fifteen screenshots have 10 to 25 MB."""


class CallFailed(FaultError):
    """An attempt that brought no whole reply, of which nothing has been sent to the client."""

    def __init__(self, fault: Fault, ending: Ending) -> None:
        super().__init__(fault)
        self.ending = ending


class Courier:
    """Makes attempts."""

    def __init__(self, upstream: Upstream, metrics: Metrics) -> None:
        self._upstream = upstream
        self._metrics = metrics

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
            raise _failed(exchange, entry, error) from error
        finally:
            self._metrics.attempt_ended(exchange.route.operation, time.perf_counter() - started)

    async def _carry(self, exchange: Exchange, entry: RegistryEntry, patience_s: float | None) -> None:
        request, route, body = exchange.request, exchange.route, exchange.body
        unseen = [(HEADER_UNSEEN, "1")] if exchange.is_unseen else []
        call = Call(
            method=request.method,
            path=route.path,
            headers=upstream_headers(request, route, entry) + exchange.keys + unseen,
            query=upstream_query(request),
            body=body.data() if request.method == "POST" else None,
        )
        probe = functools.partial(self._upstream.is_alive, entry, PROBE_INTERVAL_S)
        async with (
            _patience(patience_s) as patience,
            Vigil(probe=probe),
            self._upstream.send(entry, call) as upstream_reply,
            aclosing(upstream_reply.chunks()) as chunks,
        ):
            fault = await fault_instead(upstream_reply, route, is_v2=request.is_v2)
            if fault is not None:
                raise FaultError(fault)
            status, headers = upstream_reply.status, end_to_end(upstream_reply.headers)
            held, is_whole = await _hold(chunks) if route.operation in HELD else ([], False)
            patience.reschedule(None)
            if not is_whole:
                await _send(exchange, status, headers, held, chunks)
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


async def _hold(chunks: AsyncGenerator[bytes, None]) -> tuple[list[bytes], bool]:
    """Return what came of a reply, and whether that is all of it."""
    held: list[bytes] = []
    held_bytes = 0
    async for chunk in chunks:
        held.append(chunk)
        held_bytes += len(chunk)
        if held_bytes > HELD_BYTES:
            return held, False
    return held, True


async def _send(
    exchange: Exchange, status: int, headers: RawHeaders, held: list[bytes], rest: AsyncGenerator[bytes, None] | None
) -> None:
    """Send the client what was held, and then what is still coming."""
    reply, body = exchange.reply, exchange.body
    if rest is None:
        exchange.on_last_byte()
    await reply.start(status, headers)
    for chunk in held:
        await reply.body(chunk, is_last=False)
    if rest is not None:
        async for chunk in rest:
            await reply.body(chunk, is_last=False)
    await reply.drained()
    if await body.is_client_gone():
        raise ClientGone("the client closed its connection before it had the whole reply")
    await reply.body(b"", is_last=True)


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
    return CallFailed(fault, Ending.UNREACHED if phase == "connect" else Ending.LOST)
