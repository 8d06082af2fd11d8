"""The watch over one call: it ends the call where its env server is lost or its client has gone.

A process that dies resets its connections and the call ends by itself; a machine that loses its power sends nothing,
and the call would wait for its whole deadline.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

from osworld_router.errors import ClientGone, EnvLost

PROBE_INTERVAL_S: Final = 1.0
PROBE_MISSES: Final = 3
"""Source: design, "Retries": 1 s, three misses = lost."""


class Vigil:
    """Runs beside its ``async with`` block, from one interval after its start, so that a fast call pays nothing for it.

    Raises:
        EnvLost: From the block's end, where `PROBE_MISSES` probes in a row were missed.
        ClientGone: From the block's end, where the client closed its connection.
    """

    def __init__(
        self,
        *,
        probe: Callable[[], Awaitable[bool]] | None = None,
        client_gone: Callable[[], Awaitable[None]] | None = None,
        interval_s: float = PROBE_INTERVAL_S,
    ) -> None:
        """Watch an env server by `probe`, a client by `client_gone`, or both."""
        self._interval_s = interval_s
        self._probe = probe
        self._client_gone = client_gone
        self._watchers: list[asyncio.Task[None]] = []
        self._verdict: EnvLost | ClientGone | None = None

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "used outside a task"
        self._call = task
        self._cancelling = task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._begin)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        for watcher in self._watchers:
            watcher.cancel()
        if self._watchers:
            await asyncio.wait(self._watchers)
        if (
            self._verdict is not None
            and self._call.uncancel() <= self._cancelling
            and kind is not None
            and issubclass(kind, asyncio.CancelledError)
        ):
            raise self._verdict from error

    def _begin(self) -> None:
        if self._probe is not None:
            self._watchers.append(asyncio.create_task(self._watch_env(self._probe)))
        if self._client_gone is not None:
            self._watchers.append(asyncio.create_task(self._watch_client(self._client_gone)))

    async def _watch_env(self, probe: Callable[[], Awaitable[bool]]) -> None:
        misses = 0
        while misses < PROBE_MISSES:
            is_alive, _ = await asyncio.gather(probe(), asyncio.sleep(self._interval_s))
            misses = 0 if is_alive else misses + 1
        self._end(EnvLost(f"the env server missed {PROBE_MISSES} probes during the call", phase="probe"))

    async def _watch_client(self, client_gone: Callable[[], Awaitable[None]]) -> None:
        await client_gone()
        self._end(ClientGone("the client closed its connection while it was waited for"))

    def _end(self, verdict: EnvLost | ClientGone) -> None:
        if self._verdict is None:
            self._verdict = verdict
            self._call.cancel()
