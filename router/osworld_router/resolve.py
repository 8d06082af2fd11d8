"""Which env server a request is for. Pure: a request and a snapshot of the registry in, a target or a fault out.

Nothing here waits, reads a file or opens a connection.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import parse_qsl

from osworld_contract.faults import FaultReason, fault_error
from osworld_contract.names import HEADER_CLIENT, HEADER_CLIENT_V2, HEADER_ENV_IDX, HEADER_SEEN
from osworld_contract.registry import RegistryEntry
from osworld_contract.replay import OWN_JOURNAL_PATH

QUERY_ENV_IDX: Final = "env_idx"

_ENV_IDX: Final = re.compile(r"[0-9]{1,6}")
_IN_POOL: Final = re.compile(r"/envs/(?P<idx>[^/]*)(?P<rest>/.+)")


class Operation(StrEnum):
    """What a call does to an env. The value is a metric label and is in the log."""

    RESET = "reset"
    STEP = "step"
    EVALUATE = "evaluate"
    HISTORY = "history"
    JOURNAL = "journal"
    """What a client says of its episode, to the router."""
    PAGE = "page"
    """A GET page of an env server."""

    @property
    def in_fault(self) -> str | None:
        """The operation as a fault names it: a page or a journal is none."""
        return None if self in (Operation.PAGE, Operation.JOURNAL) else self.value


CALLS: Final[Mapping[str, Operation]] = {
    "/env/reset": Operation.RESET,
    "/env/step": Operation.STEP,
    "/env/evaluate": Operation.EVALUATE,
    "/env/history_messages": Operation.HISTORY,
    OWN_JOURNAL_PATH: Operation.JOURNAL,
}
"""Paths that are posted to: an env server's, and the last one the router's own."""

PAGES: Final = ("/health", "/livez", "/readyz", "/state", "/screen", "/metrics")
"""Paths of an env server that may be read through the router. ``/drain`` is the pool owner's and not among them."""

OPEN_PAGES: Final = frozenset({"/health", "/livez", "/readyz"})
"""Pages that need no token, of the router and of an env alike: they show no secret."""


@dataclass(frozen=True)
class Request:
    """The head of a request, as far as routing needs it."""

    method: str
    path: str
    query: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Names in lower case, as ASGI has them."""

    def values(self, name: str) -> list[str]:
        """Return all values of the header `name`."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in self.headers if key == wanted]

    @property
    def is_seen_told(self) -> bool:
        """Whether the client says which reply it has seen last, so that nobody has to guess."""
        return bool(self.values(HEADER_SEEN))

    @property
    def is_v2(self) -> bool:
        """Whether the client asked for error statuses instead of v1's 200 with a fault."""
        return any(value.strip().lower() == HEADER_CLIENT_V2 for value in self.values(HEADER_CLIENT))


@dataclass(frozen=True)
class Route:
    """What a request asks of which env."""

    operation: Operation
    env_idx: int
    path: str
    """Path at the env server."""

    @property
    def is_open(self) -> bool:
        """Whether it needs no token."""
        return self.path in OPEN_PAGES


@dataclass(frozen=True)
class Snapshot:
    """The registry at one moment."""

    pool: str = "local"
    envs: Mapping[int, RegistryEntry] = field(default_factory=dict)
    known_envs: int = 0
    """Every env_idx below this has been in the pool, or is to be; it never shrinks while the router runs."""
    is_loaded: bool = False


def route(request: Request) -> Route:
    """Return what `request` asks for.

    Raises:
        FaultError: ``client/not_found``, ``method_not_allowed``, ``unknown_env`` or ``bad_request``.
    """
    in_pool = _IN_POOL.fullmatch(request.path)
    path = in_pool["rest"] if in_pool else request.path
    operation = CALLS.get(path)
    if operation is None and in_pool and path in PAGES:
        operation = Operation.PAGE
    if operation is None:
        raise fault_error(FaultReason.NOT_FOUND, f"there is no path {request.path[:200]!r}")
    allowed = "GET" if operation is Operation.PAGE else "POST"
    if request.method != allowed:
        raise fault_error(
            FaultReason.METHOD_NOT_ALLOWED, f"{path} takes {allowed}, not {request.method[:20]}", allow=allowed
        )
    if in_pool:
        if not _ENV_IDX.fullmatch(in_pool["idx"]):
            raise fault_error(
                FaultReason.UNKNOWN_ENV, f"{in_pool['idx'][:40]!r} is no env_idx", operation=operation.in_fault
            )
        return Route(operation, int(in_pool["idx"]), path)
    return Route(operation, _named_env(request, operation), path)


def find(snapshot: Snapshot, target: Route) -> RegistryEntry:
    """Return the env server that has the env_idx of `target` now.

    Raises:
        FaultError: ``infra/env_down`` where the env_idx belongs to the pool and nobody has it at the moment,
            ``client/unknown_env`` where it was never of the pool. A pool that has shown no env at all is down.
    """
    entry = snapshot.envs.get(target.env_idx)
    if entry is not None:
        return entry
    if target.env_idx < snapshot.known_envs or not snapshot.known_envs:
        raise fault_error(
            FaultReason.ENV_DOWN, f"no env server has env_idx {target.env_idx}", operation=target.operation.in_fault
        )
    raise fault_error(
        FaultReason.UNKNOWN_ENV,
        f"no env has env_idx {target.env_idx}; the pool {snapshot.pool} has 0 to {snapshot.known_envs - 1}",
        operation=target.operation.in_fault,
    )


def resolve(snapshot: Snapshot, request: Request) -> tuple[Route, RegistryEntry]:
    """Return what `request` asks for and the env server that has to answer it.

    Raises:
        FaultError: As `route` and `find` do.
    """
    target = route(request)
    return target, find(snapshot, target)


def _named_env(request: Request, operation: Operation) -> int:
    """Return the env that a bare path is for: of the header, of the query, else env 0."""
    query = parse_qsl(request.query.decode("latin-1"), keep_blank_values=True)
    named = {value.strip() for value in request.values(HEADER_ENV_IDX)}
    named |= {value for key, value in query if key == QUERY_ENV_IDX}
    if not named:
        return 0
    if len(named) > 1:
        raise fault_error(
            FaultReason.BAD_REQUEST,
            f"{HEADER_ENV_IDX} and {QUERY_ENV_IDX} name several envs",
            operation=operation.in_fault,
        )
    value = named.pop()
    if not _ENV_IDX.fullmatch(value):
        raise fault_error(
            FaultReason.BAD_REQUEST,
            f"{value[:40]!r} is no env_idx: a number from 0 is accepted",
            operation=operation.in_fault,
        )
    return int(value)
