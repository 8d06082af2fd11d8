"""For which envs a score would be about something that the client has not seen.

A client takes a failed reset for an episode that is over, and asks for its score. The env server may know nothing of
that reset: it never came there, or its reply went lost on the way. It still has the episode before, and its score.

Nor does a router know that has just started: a reset may have been refused while nobody listened. It says so with the
evaluate, and the env server then gives no score of the episode that it has.
"""

from osworld_contract.faults import Fault, FaultReason, fault_error
from osworld_router.resolve import Operation

_CHANGES = frozenset({Operation.RESET, Operation.STEP})
"""Calls after which a score is another one."""

_NOT_OURS = frozenset({FaultReason.UNKNOWN_ENV, FaultReason.BUSY})
"""No env has that number; or somebody else's call is under way, and the score is theirs."""


class Scores:
    """Remembers per env_idx the fault of its last reset or step, until one comes through.

    In memory only: another replica of the router knows nothing of it, so a client's calls have to go to one of them.
    """

    def __init__(self) -> None:
        self._faults: dict[int, Fault] = {}
        self._seen: set[int] = set()

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

    def is_unseen(self, operation: Operation, env_idx: int) -> bool:
        """Return whether this is an evaluate of an episode of which this router knows nothing."""
        return operation is Operation.EVALUATE and env_idx not in self._seen

    def fault(self, operation: Operation, env_idx: int) -> Fault | None:
        """Return why this call must have no score, None if it may."""
        return self._faults.get(env_idx) if operation is Operation.EVALUATE else None
