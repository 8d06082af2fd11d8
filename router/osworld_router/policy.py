"""What is done about a call that did not succeed. Pure.

- A reset goes again wherever its env_idx leads then, as long as its deadline lasts: an unmodified trainer takes one
  failed reset among several for the end of the whole run. A task's own failure is tried three times, not for ever.
- A step, an evaluate and a history go again to the very env server that may have carried them out, which knows them by
  their key. What it answered itself stands.
- An env_idx that has moved is resolved once more, unless the call may have been carried out where it was before.
- A step or evaluate whose env server or desktop is lost goes to another desktop, on which the episode was played again,
  where `refusal` has nothing against it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from osworld_contract.faults import Fault, FaultKind, FaultReason
from osworld_contract.replay import Mark
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
    RECOVER = "recover"
    """Have the episode played again on another desktop, and send it there."""


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
    is_lost: bool = False
    """Whether the env server itself is gone, or has lost the env_idx, and its episode may be played again."""


IN_PLACE: Final = frozenset(
    {
        FaultReason.DESKTOP_LOST,
        FaultReason.GUEST_UNREACHABLE,
        FaultReason.GUEST_TIMEOUT,
        FaultReason.SCREENSHOT_MISSING,
        FaultReason.ACTION_FAILED,
        FaultReason.WORKER_LOST,
        FaultReason.WORKER_START_FAILED,
        FaultReason.NO_EPISODE,
    }
)
"""Faults by which an env server says that a part of it was lost; it has another one for the next episode. One that has
no episode where there should be one was started again: a container in its pod. A task that needs too much memory or
disk would need it again."""

RECOVERIES_MAX: Final = 2
"""Replays that one call may cost: a step that brings its desktop down must not go through all of a pool."""


class Refusal(Enum):
    """Why an episode is not played again. The value is a metric label and is in the fault."""

    NO_JOURNAL = "no_journal"
    """Its desktop or task could have reached outside, it has a gap, or it was too large to be kept."""
    EVALUATE_BEGAN = "evaluate_began"
    """Its task has a postconfig, of which something may have been done."""
    ANOTHER_ROUTER = "another_router"
    """One has, or may have, given the client a later reply: what is known here may not be all of it."""
    NO_SPARE = "no_spare"
    NO_TIME = "no_time"


class Story(Protocol):
    """What is known of an episode; see `journal.Journal`."""

    may_be_evaluated: bool

    @property
    def mark(self) -> Mark:
        """The last one."""


def refusal(operation: Operation, journal: Story | None) -> Refusal | None:
    """Return why a lost episode must not be played again for `operation`, None if it may be."""
    if journal is None or operation not in (Operation.STEP, Operation.EVALUATE):
        return Refusal.NO_JOURNAL
    if journal.may_be_evaluated and not journal.mark.can_evaluate_again:
        return Refusal.EVALUATE_BEGAN
    return None


def _can_recover(operation: Operation, last: Failure, recoveries: int, journal: Story | None) -> bool:
    is_due = last.is_lost or (last.ending is Ending.ANSWERED and last.fault.reason in IN_PLACE)
    return is_due and recoveries < RECOVERIES_MAX and refusal(operation, journal) is None


@dataclass(frozen=True)
class Circumstances:
    """What a decision depends on beside the failures."""

    is_replayable: bool
    """Whether the request's body is still at hand."""
    has_time: bool
    """Whether the lost env server is still waited for. A reset waits for its deadline instead."""
    recoveries: int = 0
    """How often the episode was played again for this call."""
    journal: Story | None = None
    """What is known of the episode."""


def next_move(operation: Operation, failures: Sequence[Failure], now: Circumstances) -> Move:
    """Return what to do after `failures`, all attempts so far.

    Args:
        operation: What the call does.
        failures: How each attempt ended; the last one is what is to be decided on.
        now: What else there is to know.
    """
    last = failures[-1]
    if not now.is_replayable or operation is Operation.PAGE:
        return Move.GIVE_UP
    if operation is Operation.RESET:
        return Move.RESOLVE_AGAIN if _can_reset_again(failures) else Move.GIVE_UP
    if _can_recover(operation, last, now.recoveries, now.journal):
        return Move.RECOVER
    if last.fault.reason is FaultReason.STALE_EPOCH:
        is_elsewhere = any(failure.ending is Ending.LOST for failure in failures)
        is_first = sum(failure.fault.reason is FaultReason.STALE_EPOCH for failure in failures) == 1
        return Move.RESOLVE_AGAIN if is_first and not is_elsewhere else Move.GIVE_UP
    if last.ending is not Ending.ANSWERED and now.has_time:
        return Move.SAME_ENV
    return Move.GIVE_UP


def _can_reset_again(failures: Sequence[Failure]) -> bool:
    fault = failures[-1].fault
    if fault.kind is FaultKind.TASK:
        return fault.retryable and sum(failure.fault.kind is FaultKind.TASK for failure in failures) < TASK_ATTEMPTS
    return fault.reason is FaultReason.STALE_EPOCH or (fault.kind is FaultKind.INFRA and fault.retryable)
