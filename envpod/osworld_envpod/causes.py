"""Faults named by their cause: a desktop that was lost looks like many things to whoever just called it. Pure."""

from typing import Final

from osworld_contract.faults import SPECS, Fault, FaultReason, fault_error

SYMPTOMS: Final = frozenset(
    {
        FaultReason.DESKTOP_START_FAILED,
        FaultReason.DESKTOP_LOST,
        FaultReason.GUEST_UNREACHABLE,
        FaultReason.GUEST_TIMEOUT,
        FaultReason.SCREENSHOT_MISSING,
        FaultReason.ACTION_FAILED,
        FaultReason.OPERATION_TIMEOUT,
        FaultReason.SETUP_FAILED,
        FaultReason.SETUP_TIMEOUT,
        FaultReason.EVALUATE_FAILED,
        FaultReason.EVALUATE_TIMEOUT,
    }
)
"""What the loss of a desktop can look like. Setup and evaluator ask the desktop, and nobody can tell whether they
would have failed on one that lives. All others have a cause of their own, which stays: a module that is missing, a
worker that was lost, a caller that was wrong, a score that nobody waits for."""


def by_cause(fault: Fault, cause: FaultReason | None) -> Fault:
    """Return `fault`, named by `cause` where that is known and explains it: with its evidence, and what it looked like.

    Args:
        fault: What a caller of the desktop saw.
        cause: Why the desktop was lost; None where that is not known, or it was not lost.
    """
    if cause is None or fault.reason not in SYMPTOMS:
        return fault
    message = f"{SPECS[cause].meaning}; seen as {fault.reason}: {fault.message}"
    named = fault_error(cause, message, operation=fault.operation).fault
    return named.model_copy(update={"evidence": fault.evidence | {"seen_as": fault.reason.value}})
