"""What is done about a call that did not succeed."""

import pytest

from osworld_contract.faults import SPECS, FaultKind, FaultReason, fault_error
from osworld_router.policy import TASK_ATTEMPTS, Ending, Failure, Move, next_move
from osworld_router.resolve import Operation

ONE_EPISODE = [Operation.STEP, Operation.EVALUATE, Operation.HISTORY]


def failure(reason: FaultReason, ending: Ending = Ending.ANSWERED) -> Failure:
    return Failure(fault_error(reason).fault, ending)


def move(operation: Operation, *failures: Failure, is_replayable: bool = True, has_time: bool = True) -> Move:
    return next_move(operation, failures, is_replayable=is_replayable, has_time=has_time)


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
