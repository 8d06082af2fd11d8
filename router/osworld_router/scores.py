"""For which envs a score would be about something that the client has not seen.

A client takes a failed reset for an episode that is over, and asks for its score. The env server may know nothing of
that reset: it never came there, or its reply went lost on the way. It still has the episode before, and its score.

Nor does a router know that has just started: a reset may have been refused while nobody listened. It says so with the
evaluate, and the env server then gives no score of the episode that it has.

A client that says which reply it has seen last leaves nothing to guess: its env server compares (`HEADER_SEEN`).
"""

from collections.abc import Collection

from osworld_contract.faults import Fault, FaultReason, fault_error
from osworld_router.resolve import Operation, Request, Route

_CHANGES = frozenset({Operation.RESET, Operation.STEP})
"""Calls after which a score is another one."""

_NOT_OURS = frozenset({FaultReason.UNKNOWN_ENV, FaultReason.BUSY})
"""No env has that number; or somebody else's call is under way, and the score is theirs."""


class Scores:
    """Remembers per env_idx the fault of its last reset or step, until one comes through.

    In memory only; other routers of the pool are told when they ask (`peers`).
    """

    def __init__(self) -> None:
        self._faults: dict[int, Fault] = {}
        self._seen: set[int] = set()

    @property
    def failed_envs(self) -> Collection[int]:
        """Return whose last reset or step here ended in a fault."""
        return self._faults.keys()

    def came_through(self, operation: Operation, env_idx: int) -> None:
        """Note that the client has the env server's reply."""
        if operation in _CHANGES:
            self._seen.add(env_idx)
            self._faults.pop(env_idx, None)

    def failed(self, operation: Operation, env_idx: int, fault: Fault) -> None:
        """Note that the client got `fault` instead of a reply of the env server."""
        if operation in _CHANGES and fault.reason not in _NOT_OURS:
            self._faults[env_idx] = fault

    def lost(self, operation: Operation, env_idx: int) -> None:
        """Note that the client got no whole reply, or was not there for it."""
        self.failed(operation, env_idx, fault_error(FaultReason.REPLY_LOST, operation=operation.in_fault).fault)

    def is_unseen(self, request: Request, route: Route) -> bool:
        """Return whether this is an evaluate of which nobody knows what its client has seen."""
        is_evaluate = route.operation is Operation.EVALUATE
        return is_evaluate and route.env_idx not in self._seen and not request.is_seen_told

    def fault(self, request: Request, route: Route) -> Fault | None:
        """Return why this call must have no score, None if it may."""
        fault = self._faults.get(route.env_idx) if route.operation is Operation.EVALUATE else None
        is_for_env = fault is not None and fault.reason is FaultReason.REPLY_LOST and request.is_seen_told
        return None if is_for_env else fault
