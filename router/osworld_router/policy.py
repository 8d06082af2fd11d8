"""What is done about a call that did not succeed. Pure.

- A reset goes again wherever its env_idx leads then, as long as its deadline lasts: an unmodified trainer takes one
  failed reset among several for the end of the whole run. A task's own failure is tried three times, not for ever.
- A step, an evaluate and a history go again to the very env server that may have carried them out, which knows them by
  their key. What it answered itself stands.
- An env_idx that has moved is resolved once more, unless the call may have been carried out where it was before.

Hedges and recovery belong here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from osworld_contract.faults import Fault, FaultKind, FaultReason
from osworld_router.resolve import Operation

TASK_ATTEMPTS: Final = 3
"""Attempts at a reset whose task cannot be set up, each with the env server's own three on fresh desktops. A guess: a
download may come back, a broken task never does, and every env of its batch would wait for it."""


class Move(Enum):
    """What to do next about a call."""

    GIVE_UP = "give_up"
    SAME_ENV = "same_env"
    """Send it again to the same env server, as long as that has the env_idx."""
    RESOLVE_AGAIN = "resolve_again"
    """Send it to whichever env server has the env_idx now."""


class Ending(Enum):
    """How an attempt failed."""

    ANSWERED = "answered"
    """A fault was said: by the env server, or by the router before it asked one."""
    UNREACHED = "unreached"
    """No connection: the env server knows nothing of the call."""
    LOST = "lost"
    """No whole reply came: the call may have been carried out."""


@dataclass(frozen=True)
class Failure:
    """One attempt that failed."""

    fault: Fault
    ending: Ending = Ending.ANSWERED


def next_move(operation: Operation, failures: Sequence[Failure], *, is_replayable: bool, has_time: bool) -> Move:
    """Return what to do after `failures`, all attempts so far.

    Args:
        operation: What the call does.
        failures: How each attempt ended; the last one is what is to be decided on.
        is_replayable: Whether the request's body is still at hand.
        has_time: Whether the lost env server is still waited for. A reset waits for its deadline instead.
    """
    last = failures[-1]
    if not is_replayable or operation is Operation.PAGE:
        return Move.GIVE_UP
    if operation is Operation.RESET:
        return Move.RESOLVE_AGAIN if _can_reset_again(failures) else Move.GIVE_UP
    if last.fault.reason is FaultReason.STALE_EPOCH:
        is_elsewhere = any(failure.ending is Ending.LOST for failure in failures)
        is_first = sum(failure.fault.reason is FaultReason.STALE_EPOCH for failure in failures) == 1
        return Move.RESOLVE_AGAIN if is_first and not is_elsewhere else Move.GIVE_UP
    if last.ending is not Ending.ANSWERED and has_time:
        return Move.SAME_ENV
    return Move.GIVE_UP


def _can_reset_again(failures: Sequence[Failure]) -> bool:
    fault = failures[-1].fault
    if fault.kind is FaultKind.TASK:
        return fault.retryable and sum(failure.fault.kind is FaultKind.TASK for failure in failures) < TASK_ATTEMPTS
    return fault.reason is FaultReason.STALE_EPOCH or (fault.kind is FaultKind.INFRA and fault.retryable)
