"""Headers on their way through the router. Pure: which are dropped, which are set."""

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote_from_bytes
from uuid import uuid4

from osworld_contract.names import (
    HEADER_ACKS,
    HEADER_ENDED,
    HEADER_ENV_IDX,
    HEADER_EPOCH,
    HEADER_IDEMPOTENCY_KEY,
    HEADER_STEP,
    HEADER_UID,
    HEADER_UNSEEN,
)
from osworld_contract.registry import RegistryEntry
from osworld_router.resolve import Operation, Request, Route

HOP_BY_HOP: Final = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
        b"trailer", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
"""Headers that belong to one connection. Source: RFC 9110, 7.6.1."""

OURS: Final = frozenset(
    {b"host", b"authorization", b"expect"}
    | {name.lower().encode() for name in (HEADER_ENV_IDX, HEADER_EPOCH, HEADER_UID)}
    | {name.lower().encode() for name in (HEADER_ACKS, HEADER_UNSEEN, HEADER_ENDED)}
)
"""Headers of a request that the router answers for: set by it, or not passed on."""

ACKNOWLEDGED: Final = frozenset({Operation.RESET, Operation.STEP})
"""Calls whose reply is acknowledged once the client has it: a score is for what the client saw."""

_QUERY_SAFE: Final = "!$&'()*+,-./:;=?@_~%[]"


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return `headers`, names in lower case, less those that belong to the connection they came on."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = {token.strip().lower() for name, value in lowered if name == b"connection" for token in value.split(b",")}
    dropped = HOP_BY_HOP | named
    return [(name, value) for name, value in lowered if name not in dropped]


def upstream_headers(request: Request, route: Route, entry: RegistryEntry) -> list[tuple[str, str]]:
    """Return the headers of `request` as the env server of `entry` gets them, less its Authorization."""
    headers = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in end_to_end(request.headers)
        if name not in OURS
    ]
    headers += addressee(route, entry)
    if route.operation in ACKNOWLEDGED:
        headers.append((HEADER_ACKS, "1"))
    return headers


def ack_headers(
    request: Request, route: Route, entry: RegistryEntry, keys: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Return the headers that acknowledge the reply to `request`, which was sent with `keys`."""
    named = [(name, value) for name in (HEADER_IDEMPOTENCY_KEY, HEADER_STEP) for value in request.values(name)]
    return [*named, *keys, *addressee(route, entry)]


def addressee(route: Route, entry: RegistryEntry) -> list[tuple[str, str]]:
    """Return the headers that say who is meant: another env server, or one that has lost the env_idx, answers 421."""
    return [(HEADER_ENV_IDX, str(route.env_idx)), (HEADER_EPOCH, str(entry.epoch)), (HEADER_UID, entry.uid)]


def idempotency_headers(request: Request, route: Route) -> list[tuple[str, str]]:
    """Return the key that a reset or step needs to be sent twice and carried out once, nothing where it has one.

    A step number is one as well: a key beside it would make the client's own repeat another step.
    """
    if route.operation not in ACKNOWLEDGED:
        return []
    if request.values(HEADER_IDEMPOTENCY_KEY):
        return []
    if route.operation is Operation.STEP and request.values(HEADER_STEP):
        return []
    return [(HEADER_IDEMPOTENCY_KEY, str(uuid4()))]


def upstream_query(request: Request) -> str:
    """Return the query of `request`, fit for a request line."""
    return quote_from_bytes(request.query, safe=_QUERY_SAFE)
