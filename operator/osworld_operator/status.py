"""From a `PoolView` to the status of its OSWorldEnv. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from osworld_contract.crd import Condition, ConditionReason, ConditionType, OSWorldEnv, OSWorldEnvStatus, TroubledEnv
from osworld_contract.crd.status import TROUBLED_MAX
from osworld_operator.actions import Action, Assign, Create, Delete, Drain
from osworld_operator.children import env_selector_text, service_url
from osworld_operator.decide import can_take, is_broken, is_silent
from osworld_operator.view import Hold, NodeState, PodView, PoolView

MESSAGE_MAX_CHARS = 1024

NODES_WORDS = {
    NodeState.LOST: "out of reach",
    NodeState.DOUBTED: "lost for Kubernetes, but env servers there answer",
}


@dataclass(frozen=True)
class Finding:
    """What one of the conditions is."""

    type: ConditionType
    holds: bool
    reason: ConditionReason
    message: str = ""


def pool_status(
    env: OSWorldEnv, view: PoolView, actions: Sequence[Action], refusal: Hold | None, now: str
) -> OSWorldEnvStatus:
    """Return the status. `refusal` is what the API server said against a pod; `now` is a time in RFC 3339.

    The epoch is the one that `env` has: whoever moves an env_idx writes it first.
    """
    served = {idx: pod for idx, pod in view.holders.items() if idx < view.replicas}
    ready = [pod for pod in served.values() if pod.is_ready and not is_broken(pod)]
    troubled = [pod for pod in view.pods if _trouble(pod) is not None]
    findings = (
        _ready(view, len(ready)),
        _progressing(view, actions, len(ready)),
        _degraded(view, troubled, refusal),
    )
    return OSWorldEnvStatus(
        observed_generation=env.metadata.generation,
        replicas=len(served),
        selector=env_selector_text(env.metadata.name),
        desired=view.replicas,
        ready=len(ready),
        busy=sum(pod.is_busy is True for pod in served.values()),
        spare=sum(can_take(pod) for pod in view.pods),
        faulted=len(troubled),
        updated=sum(pod.is_alive and pod.revision == view.revision for pod in view.pods),
        url=service_url(env),
        last_epoch=env.status.last_epoch,
        conditions=tuple(_condition(env, finding, now) for finding in findings),
        troubled=tuple(_troubled(pod) for pod in sorted(troubled, key=_importance)[:TROUBLED_MAX]),
    )


def invalid_status(before: dict[str, Any], generation: int, message: str, now: str) -> dict[str, Any]:
    """Return the status of an OSWorldEnv whose spec this operator does not understand. Its pods are left alone."""
    conditions = {item["type"]: item for item in before.get("conditions", ())}
    known = conditions.get(ConditionType.DEGRADED)
    finding = Finding(ConditionType.DEGRADED, True, ConditionReason.INVALID_SPEC, message[:MESSAGE_MAX_CHARS])
    last = Condition.model_validate(known) if known else None
    condition = _transition(last, finding, generation, now).model_dump(by_alias=True, mode="json")
    return {**before, "conditions": list((conditions | {ConditionType.DEGRADED: condition}).values())}


def _ready(view: PoolView, ready: int) -> Finding:
    if view.replicas == 0:
        return Finding(ConditionType.READY, True, ConditionReason.SCALED_TO_ZERO, "no env is asked for")
    if ready >= view.replicas:
        return Finding(
            ConditionType.READY, True, ConditionReason.ALL_READY, f"{ready} of {view.replicas} envs are ready"
        )
    return Finding(
        ConditionType.READY, False, ConditionReason.ENVS_NOT_READY, f"{ready} of {view.replicas} envs are ready"
    )


def _progressing(view: PoolView, actions: Sequence[Action], ready: int) -> Finding:
    kinds = Counter(type(action) for action in actions)
    outdated = sum(pod.is_alive and pod.revision != view.revision for pod in view.pods)
    high = sum(pod.env_idx is not None and pod.env_idx >= view.replicas for pod in view.pods)
    starting = sum(pod.is_alive and not pod.is_ready and pod.hold is None for pod in view.pods)
    if kinds[Assign]:
        return _progress(ConditionReason.MOVING, f"{kinds[Assign]} env_idx are given to other pods")
    if outdated:
        return _progress(ConditionReason.UPDATING, f"{outdated} pods are of an older spec")
    if high or ((kinds[Drain] or kinds[Delete]) and not kinds[Create]):
        return _progress(ConditionReason.SCALING_DOWN, f"{high} envs above {view.replicas - 1} end their episodes")
    if kinds[Create] or starting:
        return _progress(ConditionReason.CREATING, f"{kinds[Create] + starting} pods are coming up")
    return Finding(ConditionType.PROGRESSING, False, ConditionReason.RECONCILED, f"{ready} envs serve")


def _progress(reason: ConditionReason, message: str) -> Finding:
    return Finding(ConditionType.PROGRESSING, True, reason, message)


def _degraded(view: PoolView, troubled: list[PodView], refusal: Hold | None) -> Finding:
    held = [pod.hold for pod in view.pods if pod.hold is not None and not pod.is_terminating]
    if refusal is not None:
        return Finding(ConditionType.DEGRADED, True, refusal.reason, refusal.message[:MESSAGE_MAX_CHARS])
    if held:
        reason, count = Counter(hold.reason for hold in held).most_common(1)[0]
        example = next(hold.message for hold in held if hold.reason is reason)
        message = f"{count} of {len(view.pods)} pods: {example}"[:MESSAGE_MAX_CHARS]
        return Finding(ConditionType.DEGRADED, True, reason, message)
    for state, words in NODES_WORDS.items():
        if names := ", ".join(sorted({str(pod.node_name) for pod in view.pods if pod.node is state})):
            message = f"{words}: {names}"[:MESSAGE_MAX_CHARS]
            return Finding(ConditionType.DEGRADED, True, ConditionReason.NODES_LOST, message)
    silent = [pod.name for pod in troubled if is_silent(pod)]
    if silent or view.is_deaf:
        names = ", ".join(silent) or "most pods; is the way to them open, or their token changed?"
        message = f"ready, but without an answer to the operator: {names}"[:MESSAGE_MAX_CHARS]
        return Finding(ConditionType.DEGRADED, True, ConditionReason.ENV_SERVERS_SILENT, message)
    if troubled:
        names = ", ".join(pod.name for pod in troubled)[:MESSAGE_MAX_CHARS]
        return Finding(ConditionType.DEGRADED, True, ConditionReason.PODS_FAILING, f"not at work: {names}")
    return Finding(ConditionType.DEGRADED, False, ConditionReason.AS_EXPECTED)


def _trouble(pod: PodView) -> Hold | None:
    """Return what is wrong with a pod. One that drains or ends on purpose is not in trouble."""
    if pod.node is NodeState.LOST:
        return Hold(ConditionReason.NODES_LOST, f"node {pod.node_name} is out of reach")
    if pod.is_terminating or pod.is_drained or pod.is_retired:
        return None
    if pod.hold is not None:
        return pod.hold
    if is_silent(pod):
        return Hold(ConditionReason.ENV_SERVERS_SILENT, "ready, but its env server does not answer the operator")
    if is_broken(pod):
        return Hold(ConditionReason.PODS_FAILING, "the env server is down" if pod.is_down else "not ready for long")
    return None


def _importance(pod: PodView) -> tuple[bool, int]:
    return pod.env_idx is None, pod.env_idx if pod.env_idx is not None else pod.slot


def _troubled(pod: PodView) -> TroubledEnv:
    trouble = _trouble(pod)
    assert trouble is not None
    return TroubledEnv(
        pod=pod.name,
        env_idx=pod.env_idx,
        node=pod.node_name,
        reason=trouble.reason,
        message=trouble.message[:MESSAGE_MAX_CHARS],
    )


def _condition(env: OSWorldEnv, finding: Finding, now: str) -> Condition:
    before = next((item for item in env.status.conditions if item.type == finding.type), None)
    return _transition(before, finding, env.metadata.generation, now)


def _transition(before: Condition | None, finding: Finding, generation: int, now: str) -> Condition:
    """Return the condition. Its time is that of the last change of its status, not of its words."""
    status = "True" if finding.holds else "False"
    is_same = before is not None and before.status == status
    return Condition(
        type=finding.type,
        status=status,
        reason=finding.reason,
        message=finding.message,
        last_transition_time=before.last_transition_time if before is not None and is_same else now,
        observed_generation=generation,
    )
