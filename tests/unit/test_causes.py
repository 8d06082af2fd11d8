"""Faults are named by their cause where it is known, and by nothing that did not cause them."""

import pytest

from osworld_contract.faults import SPECS, FaultKind, FaultReason, fault_error
from osworld_envpod.causes import SYMPTOMS, by_cause


@pytest.mark.parametrize("reason", sorted(SYMPTOMS))
def test_what_a_lost_desktop_looks_like_is_named_by_its_cause(reason: FaultReason) -> None:
    fault = fault_error(reason, "the guest is gone", operation="step").fault.model_copy(
        update={"evidence": {"message": "x"}}
    )
    named = by_cause(fault, FaultReason.DISK_FULL)
    assert (named.header, named.status, named.operation) == ("infra/disk_full", 507, "step")
    assert named.masked and named.retryable
    assert named.message == f"no space is left on the disk; seen as {reason}: the guest is gone"
    assert named.evidence == {"message": "x", "seen_as": reason}


@pytest.mark.parametrize("reason", sorted(set(FaultReason) - SYMPTOMS))
def test_what_has_a_cause_of_its_own_keeps_its_name(reason: FaultReason) -> None:
    fault = fault_error(reason).fault
    assert by_cause(fault, FaultReason.DISK_FULL) is fault


@pytest.mark.parametrize("reason", sorted(FaultReason))
def test_nothing_is_renamed_without_a_cause(reason: FaultReason) -> None:
    fault = fault_error(reason).fault
    assert by_cause(fault, None) is fault


def test_agent_and_client_are_never_excused_by_a_lost_desktop() -> None:
    assert not {SPECS[reason].kind for reason in SYMPTOMS} & {FaultKind.AGENT, FaultKind.CLIENT}
