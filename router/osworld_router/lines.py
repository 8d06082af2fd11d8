"""Connections to env servers that are kept for the next call, and new ones."""

import asyncio
import ssl
from typing import Final

from osworld_router.calls import Origin
from osworld_router.connection import Connection
from osworld_router.errors import UpstreamError

KEEP_ALIVE_S: Final = 3.0
"""Idle connections are closed by us after so long. Below the 5 s after which uvicorn, under the env server, closes
them: a POST on a connection that is just being closed fails, and could not be sent again safely."""

SWEEP_S: Final = 1.0
"""How often those that were idle for too long are looked for. Below the difference of the two times above."""


class Lines:
    """Gives connections out and takes them back."""

    def __init__(self, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle: dict[Origin, list[Connection]] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None

    async def take(self, to: Origin) -> Connection:
        """Return a connection to `to`: the one that was used last, or a new one.

        Raises:
            UpstreamError: In the phase ``connect``.
        """
        now = asyncio.get_running_loop().time()
        kept = self._idle.get(to, [])
        while kept:
            connection = kept.pop()
            if connection.is_usable and now - connection.idle_since < KEEP_ALIVE_S:
                return connection
            connection.close()
        return await self._connect(to)

    def give_back(self, to: Origin, connection: Connection) -> None:
        """Keep `connection` for the next call, or end it where it cannot take one."""
        if not connection.is_usable:
            connection.close()
            return
        connection.rest()
        self._idle.setdefault(to, []).append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._end_idle)

    def close(self) -> None:
        """End all that are idle. Can be called twice."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for kept in self._idle.values():
            for connection in kept:
                connection.close()
        self._idle.clear()

    async def _connect(self, to: Origin) -> Connection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    Connection, to.host, to.port, ssl=self._context() if to.is_tls else None
                )
        except TimeoutError as error:
            message = f"the env server did not take a connection within {self._connect_timeout_s:g} s"
            raise UpstreamError(message, phase="connect", cause=type(error).__name__) from error
        except (OSError, ValueError) as error:
            message = "the env server cannot be connected to"
            raise UpstreamError(message, phase="connect", cause=type(error).__name__) from error
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _end_idle(self) -> None:
        """End those that were idle for too long, and look again while there are others."""
        loop = asyncio.get_running_loop()
        oldest = loop.time() - KEEP_ALIVE_S
        for to, kept in list(self._idle.items()):
            young = [connection for connection in kept if connection.is_usable and connection.idle_since > oldest]
            for connection in kept:
                if connection not in young:
                    connection.close()
            if young:
                self._idle[to] = young
            else:
                del self._idle[to]
        self._sweep = loop.call_later(SWEEP_S, self._end_idle) if self._idle else None
