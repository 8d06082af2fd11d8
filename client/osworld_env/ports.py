"""TCP ports of this machine: listening on one, whether that can be done, and free ones that were not used before."""

import errno
import random
import socket
import sys
from collections import deque
from typing import Final, Self

from osworld_env.errors import BadUsageError, CliError

_GIVEN_OUT: Final = range(20_000, 30_000)
"""Below the ports that the kernel gives to outgoing connections and those that Kubernetes gives to services."""

_TRIES: Final = 50
_NOT_AGAIN: Final = 1000
"""How many of the ports given last are not given again: a tenth of all, and more than a pool has programs."""

_BACKLOG: Final = 2048
"""Connections that wait to be accepted: a trainer opens one per env and call, all at the same moment."""


def ensure_free(host: str, port: int) -> None:
    """Return if `port` of `host` can be listened on.

    Raises:
        CliError: It is taken, or may not be used by this user.
        BadUsageError: `host` is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise BadUsageError(f"--host {host} is not known: {error.strerror}") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT counts as free
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CliError(
                    f"port {port} of {host} is taken: stop what listens there, or choose another --port"
                ) from error
            if error.errno == errno.EADDRNOTAVAIL:
                raise BadUsageError(f"--host {host} is no address of this machine") from error
            raise CliError(f"port {port} of {host} cannot be used: {error.strerror}") from error


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at `port` of `host`.

    Raises:
        CliError: It cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise CliError(f"port {port} of {host} cannot be listened on: {error.strerror}") from error


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now. Another program may take it before it is used.

    Raises:
        CliError: No port is free.
    """
    with _bound() as probe:
        return int(probe.getsockname()[1])


class PortPicker:
    """Gives out free ports of 127.0.0.1, none soon again: a late call for a dead env server must not reach another's.

    Each stays bound here, without listening, until it is released or the block ends, so that no other program is given
    it before its own program listens. Linux lets that program in, as long as it asks for ``SO_REUSEADDR``.
    """

    def __init__(self) -> None:
        self._given: deque[int] = deque(maxlen=_NOT_AGAIN)
        self._held: dict[int, socket.socket] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for port in tuple(self._held):
            self.release(port)

    def pick(self) -> int:
        """Return a port that is free now.

        Raises:
            CliError: No port is free.
        """
        for _ in range(_TRIES):
            probe = _bound()
            port = int(probe.getsockname()[1])
            if port in self._given:
                probe.close()
                continue
            self._given.append(port)
            self._hold(port, probe)
            return port
        raise CliError("no free port of 127.0.0.1 could be had")

    def release(self, port: int) -> None:
        """Hold `port` no longer: its program listens, or has ended."""
        if (probe := self._held.pop(port, None)) is not None:
            probe.close()

    def _hold(self, port: int, probe: socket.socket) -> None:
        if sys.platform != "linux":  # there it would keep its own program out as well
            probe.close()
            return
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held[port] = probe


def _bound() -> socket.socket:
    for port in random.sample(_GIVEN_OUT, _TRIES):
        probe = socket.socket()
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            probe.close()
        else:
            return probe
    raise CliError("no free port of 127.0.0.1 could be had")
