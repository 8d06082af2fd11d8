"""The client's connections: watched, so that a server that is lost without a word is noticed within seconds.

A node that loses its power sends nothing, and who waits for a reply sends nothing either: without a watch the wait
lasts as long as the call's whole time.
"""

import errno
import socket
from typing import Final
from urllib.request import getproxies, proxy_bypass

import httpx

from osworld_env.address import Address

IDLE_S: Final = 5
INTERVAL_S: Final = 5
MISSES: Final = 3
"""A connection is looked at by the kernel after `IDLE_S` of silence, and lost after `MISSES` looks in vain. A guess: to
be wrong about one costs little, a second connection and a repeat under the same key."""

LOST_MS: Final = 1000 * (IDLE_S + INTERVAL_S * MISSES)
"""The same for what was sent and is not acknowledged, which the kernel would send again for a quarter of an hour."""

_WATCH: Final = (
    ("TCP_KEEPIDLE", IDLE_S),
    ("TCP_KEEPALIVE", IDLE_S),  # macOS's name of the same
    ("TCP_KEEPINTVL", INTERVAL_S),
    ("TCP_KEEPCNT", MISSES),
    ("TCP_USER_TIMEOUT", LOST_MS),  # Linux
)

SOCKET_OPTIONS: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in _WATCH if hasattr(socket, name)),
]


def transport_to(address: Address) -> httpx.HTTPTransport:
    """Return the way to `address`: a connection for each call, by the environment's proxy if it names one."""
    return httpx.HTTPTransport(
        trust_env=not address.is_loopback,
        limits=httpx.Limits(max_keepalive_connections=0),
        proxy=None if address.is_loopback else proxy_to(address),
        socket_options=SOCKET_OPTIONS,
    )


def proxy_to(address: Address) -> str | None:
    """Return the proxy that the environment names for `address`: httpx looks there only for transports of its own."""
    proxies = getproxies()
    found = proxies.get("https" if address.is_tls else "http") or proxies.get("all")
    if not found or proxy_bypass(f"{address.host}:{address.port}"):
        return None
    return found if "://" in found else f"http://{found}"


def is_lost(error: BaseException) -> bool:
    """Return whether the kernel gave a connection up, which httpx cannot tell from a reply that was late."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno == errno.ETIMEDOUT:
            return True
        cause = cause.__cause__ or cause.__context__
    return False
