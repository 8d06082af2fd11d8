"""Acknowledgements: an env server is told that the client has the reply to its reset or step.

They go out after the reply, so a call never waits for one. Who dies with a reply in its hands sends none, and the env
server then gives no score for what nobody saw.
"""

import asyncio
import logging
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

from tenacity import AsyncRetrying, RetryError, retry_if_result, stop_after_delay, wait_random_exponential

from osworld_contract.names import ACK_PATH
from osworld_contract.registry import RegistryEntry
from osworld_router.exchange import Exchange
from osworld_router.headers import ACKNOWLEDGED, ack_headers
from osworld_router.metrics import Metrics
from osworld_router.upstream import Headers, Upstream

logger = logging.getLogger(__name__)

ATTEMPT_S: Final = 1.0
RETRY_S: Final = 30.0
PAUSE_S: Final = 0.1
PAUSE_MAX_S: Final = 1.0
"""Guesses. An env server that is frozen for some seconds gets its acknowledgement before an evaluate gives up on it."""

STOP_S: Final = 2.0
"""How long those that are still under way may take when the router stops."""

REFUSED: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.MISDIRECTED_REQUEST})
"""The env server knows no acknowledgements, or has lost the env_idx: sending again is no use."""


class Acks:
    """Sends acknowledgements. An async context manager: leaving gives those under way a moment, and ends them."""

    def __init__(self, upstream: Upstream, metrics: Metrics) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
        for task in self._tasks:
            task.cancel()

    def send(self, exchange: Exchange) -> None:
        """Acknowledge the reply of `exchange`, which the client has; returns at once."""
        entry, route = exchange.entry, exchange.route
        if entry is None or route.operation not in ACKNOWLEDGED:
            return
        headers = ack_headers(exchange.request, route, entry, exchange.keys)
        task = asyncio.create_task(self._send(entry, headers))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, entry: RegistryEntry, headers: Headers) -> None:
        status = await self._upstream.post(entry, ACK_PATH, headers, ATTEMPT_S)
        if _is_to_be_sent_again(status):
            status = await self._send_again(entry, headers)
        self._metrics.ack_ended("ok" if status == HTTPStatus.OK else "failed")
        if status != HTTPStatus.OK:
            logger.warning("the env server %s took no acknowledgement: status %s", entry.uid, status)

    async def _send_again(self, entry: RegistryEntry, headers: Headers) -> int | None:
        """Return the last status, None where it was no use."""
        retrying = AsyncRetrying(
            retry=retry_if_result(_is_to_be_sent_again),
            stop=stop_after_delay(RETRY_S),
            wait=wait_random_exponential(multiplier=PAUSE_S, max=PAUSE_MAX_S),
        )
        await asyncio.sleep(PAUSE_S)
        status: int | None
        try:
            status = await retrying(self._upstream.post, entry, ACK_PATH, headers, ATTEMPT_S)
        except RetryError:
            status = None
        return status


def _is_to_be_sent_again(status: int | None) -> bool:
    return status is None or (status != HTTPStatus.OK and status not in REFUSED)
