"""Whatever goes wrong in an operation ends its episode with one fault, named by its cause, counted and raised alike."""

import asyncio

import pytest

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_contract.wire import Phase
from osworld_envpod.episode import Episode, Observation
from osworld_envpod.ledger import Ledger
from osworld_envpod.metrics import EnvMetrics


class Loss:
    """Why the desktop was lost: known only once it was."""

    def __init__(self, reason: FaultReason | None) -> None:
        self.reason: FaultReason | None = None
        self._becomes = reason

    def happen(self) -> None:
        self.reason = self._becomes


def faults_of(metrics: EnvMetrics) -> list[tuple[str, float]]:
    """Return what was counted, and how often."""
    return [
        (f"{sample.labels['kind']}/{sample.labels['reason']} {sample.labels['operation']}", sample.value)
        for family in metrics.faults.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    ]


def ended(operation: str, error: BaseException, lost_to: FaultReason | None) -> tuple[Episode, BaseException, str]:
    """Return the episode in which `error` is raised while the desktop is lost, what comes out, and the metrics."""
    metrics, loss, episode = EnvMetrics(), Loss(lost_to), Episode()
    episode.move(Phase.RESETTING)
    episode.move(Phase.RUNNING)
    ledger = Ledger(metrics, lambda: loss.reason)
    with pytest.raises((FaultError, asyncio.CancelledError)) as caught, ledger.faults_of(episode, operation):
        loss.happen()
        raise error
    [(counted, _)] = faults_of(metrics)
    return episode, caught.value, counted


@pytest.mark.parametrize("operation", ["reset", "step", "evaluate"])
@pytest.mark.parametrize("error", [fault_error(FaultReason.GUEST_TIMEOUT, "no answer", path="/run"), TimeoutError()])
def test_a_fault_of_a_desktop_lost_to_a_full_disk_is_disk_full(operation: str, error: Exception) -> None:
    episode, raised, counted = ended(operation, error, FaultReason.DISK_FULL)
    assert isinstance(raised, FaultError)
    assert episode.phase is Phase.FAULTED and episode.fault == raised.fault
    assert (raised.fault.reason, raised.fault.operation) == (FaultReason.DISK_FULL, operation)
    assert raised.__cause__ is error
    assert counted == f"infra/disk_full {operation}"


def test_a_cancelled_operation_says_why_its_desktop_was_lost_and_stays_cancelled() -> None:
    episode, raised, _ = ended("step", asyncio.CancelledError(), FaultReason.DISK_FULL)
    assert isinstance(raised, asyncio.CancelledError)
    assert episode.fault is not None
    assert (episode.fault.reason, episode.fault.evidence["seen_as"]) == ("disk_full", "operation_timeout")


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (fault_error(FaultReason.ACTION_REFUSED), "agent/action_refused"),
        (fault_error(FaultReason.BAD_TASK), "client/bad_task"),
        (fault_error(FaultReason.SETUP_MODULE_MISSING), "task/setup_module_missing"),
        (fault_error(FaultReason.REPLY_LOST), "infra/reply_lost"),
        (ValueError("a defect"), "infra/internal"),
    ],
)
def test_a_fault_with_a_cause_of_its_own_keeps_its_name_on_a_full_disk(error: Exception, name: str) -> None:
    episode, raised, counted = ended("reset", error, FaultReason.DISK_FULL)
    assert isinstance(raised, FaultError) and episode.fault is not None
    assert (raised.fault.header, episode.fault.header, counted) == (name, name, f"{name} reset")


def test_a_fault_without_a_known_cause_is_raised_as_it_came() -> None:
    error = fault_error(FaultReason.DESKTOP_LOST)
    episode, raised, counted = ended("step", error, None)
    assert raised is error
    assert episode.fault is not None and episode.fault.reason is FaultReason.DESKTOP_LOST
    assert counted == "infra/desktop_lost step"


@pytest.mark.parametrize(
    ("lost_to", "name"), [(FaultReason.DISK_FULL, "infra/disk_full"), (None, "infra/desktop_lost")]
)
def test_an_episode_that_loses_its_desktop_between_two_calls_says_why(lost_to: FaultReason | None, name: str) -> None:
    episode = Episode()
    episode.move(Phase.RESETTING)
    episode.move(Phase.RUNNING)
    ledger = Ledger(EnvMetrics(), lambda: lost_to)
    noted = ledger.note_fault(episode, fault_error(FaultReason.DESKTOP_LOST).fault, None)
    assert episode.fault == noted and noted.header == name


def test_a_score_that_is_kept_back_counts_once_for_each_last_call_and_ends_nothing() -> None:
    metrics, episode, fault = EnvMetrics(), Episode(), fault_error(FaultReason.REPLY_LOST, operation="evaluate").fault
    ledger = Ledger(metrics, lambda: None)
    assert not ledger.note_unscored(episode, fault), "there is no episode"
    episode.move(Phase.RESETTING)
    assert not ledger.note_unscored(episode, fault), "it has not begun"
    episode.move(Phase.RUNNING)
    assert [ledger.note_unscored(episode, fault) for _ in range(3)] == [True, False, False]
    episode.record("x", None, Observation(1, True, 0.0))
    episode.move(Phase.DONE)
    assert [ledger.note_unscored(episode, fault) for _ in range(2)] == [True, False]
    assert faults_of(metrics) == [("infra/reply_lost evaluate", 2.0)]
    assert (episode.phase, episode.fault) == (Phase.DONE, None)


@pytest.mark.parametrize("end", ["score", "fault"])
def test_an_episode_that_has_its_end_keeps_it(end: str) -> None:
    metrics, episode = EnvMetrics(), Episode()
    for phase in (Phase.RESETTING, Phase.RUNNING, Phase.EVALUATING):
        episode.move(phase)
    if end == "score":
        episode.move(Phase.EVALUATED)
    else:
        episode.fail(fault_error(FaultReason.DESKTOP_LOST).fault)
    assert not Ledger(metrics, lambda: None).note_unscored(episode, fault_error(FaultReason.REPLY_LOST).fault)
    assert faults_of(metrics) == []
