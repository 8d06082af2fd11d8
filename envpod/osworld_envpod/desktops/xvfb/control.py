"""The env server's end of the connection to the PID 1 of a desktop's container (`osworld_contract.desktop_control`).

The agent's programs are of the same user as that PID 1, in the same container. What keeps them off the connection is
that nobody can connect while they live: the socket is listened on until one process has connected, and again only when
that process is gone. It connects before it starts anything, and it ends everything before it connects again.
"""

import asyncio
import contextlib
import json
import logging
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from osworld_contract.desktop_control import (
    CONTROL_SOCKET,
    CONTROL_VERSION,
    EVENT_EMPTY,
    EVENT_ENDED,
    EVENT_STARTED,
    ORDER_BOOT,
    ORDER_EMPTY,
    ORDER_GUARD,
    PACKET_MAX_BYTES,
    Order,
)

RELISTEN_PAUSE_S: Final = 0.5
"""After a connection has ended. The kernel closes the files of a PID 1 a moment before it ends the processes below it,
and an env server that comes anew must not be quicker than a PID 1 that sees the one before go. A guess with room."""

HELLO_DEADLINE_S: Final = 10.0
ANYBODY: Final = 0o666
"""The desktop's user is another one. The folder is what keeps others out."""

_PEER: Final = struct.Struct("3i")

logger = logging.getLogger(__name__)


class ControlLost(Exception):
    """There is no connection, or it ended."""


class _Report(BaseModel):
    """One packet from the desktop."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    event: Literal["empty", "started", "ended"]
    version: int
    exit_code: int | None = None


class Control:
    """One desktop's container: connected or not, emptied or with a session in it."""

    def __init__(self, folder: Path, guarded: tuple[str, int] | None) -> None:
        self._path = folder / CONTROL_SOCKET
        self._guarded = guarded
        self._task: asyncio.Task[None] | None = None
        self._connection: socket.socket | None = None
        self._is_connected = asyncio.Event()
        self._answer: asyncio.Future[None] | None = None
        self._session: asyncio.Future[int | None] | None = None
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Listen for the desktop, until closed; can run twice.

        Raises:
            OSError: The socket cannot be made.
        """
        if self._task is not None:
            return
        if self._path.exists():  # of an env server that was killed
            await asyncio.sleep(RELISTEN_PAUSE_S)
        listener = self._listen()
        self._task = asyncio.create_task(self._keep(listener), name="desktop control")

    async def close(self) -> None:
        """End the connection and listen no more; can run twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def connected(self) -> None:
        """Wait until the desktop's container is there, and empty."""
        await self._is_connected.wait()

    async def boot(self, arguments: Sequence[str], fds: Sequence[int]) -> "asyncio.Future[int | None]":
        """Have everything ended and removed, and a session started.

        Returns:
            What is done when the session ends: with its exit code, or None where that cannot be known.

        Raises:
            ControlLost: There is no connection, or it ended meanwhile.
        """
        await self._ordered({"order": ORDER_BOOT, "arguments": list(arguments)}, fds)
        if self._session is None:
            raise ControlLost("it answered another order")
        return self._session

    async def empty(self) -> None:
        """Have everything ended and removed.

        Raises:
            ControlLost: There is no connection, or it ended meanwhile.
        """
        await self._ordered({"order": ORDER_EMPTY})

    async def _ordered(self, order: Order, fds: Sequence[int] = ()) -> None:
        async with self._turn:
            if self._connection is None:
                raise ControlLost("there is no connection")
            answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._answer = answer
            try:
                _send(self._connection, order, fds)
                await answer
            except BaseException as error:
                # Whatever came of the order, nobody would know: the desktop empties itself, and comes again.
                self._drop()
                if isinstance(error, OSError):
                    raise ControlLost(str(error)) from error
                raise
            finally:
                self._answer = None

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> socket.socket:
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            listener.setblocking(False)
            listener.bind(str(self._path))
            self._path.chmod(ANYBODY)
            listener.listen(1)
        except OSError:
            listener.close()
            raise
        return listener

    async def _keep(self, listener: socket.socket) -> None:
        """Serve one connection after the other, until cancelled."""
        while True:
            try:
                with listener:
                    connection = await self._accepted(listener)
                self._path.unlink(missing_ok=True)
                with connection:
                    try:
                        await self._serve(connection)
                    finally:
                        self._lose()
            finally:
                self._path.unlink(missing_ok=True)
            await asyncio.sleep(RELISTEN_PAUSE_S)
            listener = self._listen()

    async def _accepted(self, listener: socket.socket) -> socket.socket:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            pid, _, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
            if pid == 0:  # of a PID namespace that is not below this one
                connection.setblocking(False)
                return connection
            logger.warning("process %d of the env server's own container connected to the desktop's control", pid)
            connection.close()

    async def _serve(self, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(HELLO_DEADLINE_S):
                hello = await _received(connection)
            if hello is None or (hello.event, hello.version) != (EVENT_EMPTY, CONTROL_VERSION):
                logger.error("the desktop's container speaks another version: its image and the env server's differ")
                return
            if self._guarded is not None:
                with _guard(self._guarded) as guard:
                    _send(connection, {"order": ORDER_GUARD}, [guard.fileno()])
            self._connection = connection
            self._is_connected.set()
            logger.info("the desktop's container is there")
            while (report := await _received(connection)) is not None:
                self._note(report)
        except (OSError, TimeoutError, ValidationError) as error:
            logger.warning("the connection to the desktop's container broke: %s: %s", type(error).__name__, error)

    def _note(self, report: _Report) -> None:
        self._end_session(report.exit_code)
        if report.event == EVENT_STARTED:
            self._session = asyncio.get_running_loop().create_future()
        if report.event != EVENT_ENDED and self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    def _end_session(self, exit_code: int | None) -> None:
        if self._session is not None:
            self._session.set_result(exit_code)
            self._session = None

    def _lose(self) -> None:
        if self._connection is not None:
            logger.info("the desktop's container is gone")
        self._connection = None
        self._is_connected.clear()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ControlLost("the connection ended"))
        self._end_session(None)


async def _received(connection: socket.socket) -> _Report | None:
    """Return the next packet, None at the end of the connection."""
    packet = await asyncio.get_running_loop().sock_recv(connection, PACKET_MAX_BYTES)
    return _Report.model_validate_json(packet) if packet else None


def _send(connection: socket.socket, order: Order, fds: Sequence[int]) -> None:
    socket.send_fds(connection, [json.dumps(order).encode()], list(fds))


def _guard(address: tuple[str, int]) -> socket.socket:
    """Return a socket that is bound to the env server's own address and never listens.

    Linux shares an address so among sockets of one user alone. While the desktop's PID 1 holds this one, no program of
    the agent's can take the port of an env server that was killed, and answer the router in its place.
    """
    host, port = address
    guard = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        guard.bind((host, port))
    except OSError:
        guard.close()
        raise
    return guard
