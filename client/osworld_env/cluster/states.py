"""What the envs of a pool are at, asked of its router through the API server: no Service has to be reachable."""

import base64
import http.client
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from pydantic import ValidationError

from osworld_contract.wire import EnvState

ASK_TIMEOUT_S: Final = 3.0
"""For one env. A guess: it answers from memory, and a lost one is looked for by the router, which takes longer."""

ASK_ALL_S: Final = 15.0
"""For all envs of a pool; those that were not asked by then are not known. A guess: 5 ms each, one after the other."""


class _ForwardedConnection(http.client.HTTPConnection):
    """HTTP over a connection that somebody else opens."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        super().__init__("router")
        self._connect_to = connect

    def connect(self) -> None:
        self.sock = self._connect_to()
        self.sock.settimeout(ASK_TIMEOUT_S)


def ask_states(connect: Callable[[], socket.socket], token: str, env_idxs: Iterable[int]) -> Mapping[int, EnvState]:
    """Return the state of each env that says it. `connect` opens a connection with the router.

    Raises:
        ClusterError: There is no way to the router.
    """
    credentials = base64.b64encode(f"job:{token}".encode()).decode()
    end = time.monotonic() + ASK_ALL_S
    found: dict[int, EnvState] = {}
    connection = _ForwardedConnection(connect)
    try:
        for idx in env_idxs:
            if time.monotonic() > end:
                break
            state = _ask(connection, f"/envs/{idx}/state", {"Authorization": f"Basic {credentials}"})
            if state is not None:
                found[idx] = state
    finally:
        connection.close()
    return found


def _ask(connection: _ForwardedConnection, path: str, headers: dict[str, str]) -> EnvState | None:
    try:
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        body = reply.read()
    except (OSError, http.client.HTTPException):
        connection.close()  # the next request opens another
        return None
    try:
        return EnvState.model_validate_json(body) if reply.status == http.client.OK else None
    except ValidationError:
        return None
