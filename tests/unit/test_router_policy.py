"""What is done about a call that did not succeed."""

from dataclasses import dataclass

import pytest

from osworld_contract.faults import SPECS, FaultKind, FaultReason, fault_error
from osworld_contract.replay import Mark
from osworld_router.policy import (
    IN_PLACE,
    RECOVERIES_MAX,
    TASK_ATTEMPTS,
    Circumstances,
    Ending,
    Failure,
    Move,
    next_move,
)
from osworld_router.resolve import Operation

ONE_EPISODE = [Operation.STEP, Operation.EVALUATE, Operation.HISTORY]


def failure(reason: FaultReason, ending: Ending = Ending.ANSWERED) -> Failure:
    return Failure(fault_error(reason).fault, ending)


def move(operation: Operation, *failures: Failure, is_replayable: bool = True, has_time: bool = True) -> Move:
    return next_move(operation, failures, Circumstances(is_replayable, has_time))


LOST = failure(FaultReason.ENV_DOWN, Ending.LOST)
UNREACHED = failure(FaultReason.ENV_DOWN, Ending.UNREACHED)
STALE = failure(FaultReason.STALE_EPOCH)


@pytest.mark.parametrize("reason", FaultReason)
def test_a_reset_outlives_what_a_retry_can_help(reason: FaultReason) -> None:
    spec = SPECS[reason]
    is_ours = spec.kind in (FaultKind.INFRA, FaultKind.TASK) and spec.retryable
    expected = Move.RESOLVE_AGAIN if is_ours or reason is FaultReason.STALE_EPOCH else Move.GIVE_UP
    assert move(Operation.RESET, failure(reason)) is expected
    assert move(Operation.RESET, failure(reason), has_time=False) is expected, "a reset has all of its deadline"


def test_a_task_that_cannot_be_set_up_is_not_tried_for_ever() -> None:
    broken = failure(FaultReason.SETUP_FAILED)
    assert move(Operation.RESET, *[broken] * (TASK_ATTEMPTS - 1)) is Move.RESOLVE_AGAIN
    assert move(Operation.RESET, *[broken] * TASK_ATTEMPTS) is Move.GIVE_UP
    assert move(Operation.RESET, *[LOST] * 500) is Move.RESOLVE_AGAIN


@pytest.mark.parametrize("operation", ONE_EPISODE)
def test_the_calls_of_an_episode_stay_with_its_env_server(operation: Operation) -> None:
    for lost in (LOST, UNREACHED):
        assert move(operation, lost) is Move.SAME_ENV
        assert move(operation, *[lost] * 50) is Move.SAME_ENV
        assert move(operation, lost, has_time=False) is Move.GIVE_UP
    for reason in set(FaultReason) - {FaultReason.STALE_EPOCH}:
        assert move(operation, failure(reason)) is Move.GIVE_UP, "what an env server answers stands"


@pytest.mark.parametrize("operation", ONE_EPISODE)
def test_a_move_is_followed_once_unless_the_call_may_have_been_carried_out(operation: Operation) -> None:
    assert move(operation, STALE) is Move.RESOLVE_AGAIN
    assert move(operation, UNREACHED, STALE) is Move.RESOLVE_AGAIN
    assert move(operation, STALE, STALE) is Move.GIVE_UP
    assert move(operation, LOST, STALE) is Move.GIVE_UP


@pytest.mark.parametrize("operation", Operation)
def test_what_is_not_at_hand_cannot_be_sent_again(operation: Operation) -> None:
    assert move(operation, LOST, is_replayable=False) is Move.GIVE_UP
    assert move(operation, STALE, is_replayable=False) is Move.GIVE_UP


def test_a_page_is_asked_for_once() -> None:
    assert move(Operation.PAGE, LOST) is Move.GIVE_UP
    assert move(Operation.PAGE, STALE) is Move.GIVE_UP


@dataclass
class Told:
    """What is known of an episode."""

    mark: Mark
    may_be_evaluated: bool = False


def told(*, has_postconfig: bool = False, may_be_evaluated: bool = False) -> Told:
    return Told(Mark("e" * 32, 3, not has_postconfig, "d" * 32), may_be_evaluated)


GONE = Failure(fault_error(FaultReason.ENV_DOWN).fault, Ending.LOST, is_lost=True)
DESKTOP_LOST = failure(FaultReason.DESKTOP_LOST)


def recovers(operation: Operation, last: Failure, journal: Told | None, recoveries: int = 0) -> bool:
    now = Circumstances(is_replayable=True, has_time=True, recoveries=recoveries, journal=journal)
    return next_move(operation, [last], now) is Move.RECOVER


@pytest.mark.parametrize("operation", [Operation.STEP, Operation.EVALUATE])
@pytest.mark.parametrize("last", [GONE, DESKTOP_LOST, *map(failure, IN_PLACE)])
def test_what_is_lost_is_played_again_where_nothing_is_against_it(operation: Operation, last: Failure) -> None:
    assert recovers(operation, last, told())
    assert recovers(operation, last, told(), RECOVERIES_MAX - 1)
    assert not recovers(operation, last, told(), RECOVERIES_MAX)
    assert not recovers(operation, last, None), "by default nothing is played again"
    assert recovers(operation, last, told(has_postconfig=True))
    assert not recovers(operation, last, told(has_postconfig=True, may_be_evaluated=True))
    assert recovers(operation, last, told(may_be_evaluated=True)), "an evaluate without postconfig only reads"


def test_nothing_else_is_played_again() -> None:
    for operation in (Operation.RESET, Operation.HISTORY, Operation.PAGE):
        assert not recovers(operation, GONE, told())
    for reason in set(FaultReason) - IN_PLACE:
        assert not recovers(Operation.STEP, failure(reason), told()), reason
    assert not recovers(Operation.STEP, LOST, told()), "its env server may live, and knows the step by its key"


def test_a_body_that_is_gone_cannot_be_sent_elsewhere() -> None:
    now = Circumstances(is_replayable=False, has_time=True, journal=told())
    assert next_move(Operation.STEP, [GONE], now) is Move.GIVE_UP
