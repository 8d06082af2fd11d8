"""From what the API server and env servers say to a `PoolView`. Pure; Kubernetes objects come as JSON, camelCase."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from osworld_contract.crd import ConditionReason, OSWorldEnv
from osworld_contract.kube_names import (
    ANNOTATION_DRAIN,
    CONTAINER_SERVER,
    LABEL_ENV_EPOCH,
    LABEL_ENV_IDX,
    LABEL_RETIRED,
    LABEL_REVISION,
    LABEL_SLOT,
)
from osworld_contract.redact import redact
from osworld_operator.decide import SILENT_S
from osworld_operator.owner import owner_uid
from osworld_operator.view import Hold, NodeState, PodView, PoolView

LOST_TAINTS: Final = frozenset({"node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"})
"""Source: Kubernetes, "Taint based Evictions". ``not-ready`` counts as well: its kubelet says that nothing runs."""

LEAVING_TAINTS: Final = frozenset(
    {
        "node.kubernetes.io/unschedulable",
        "node.kubernetes.io/out-of-service",
        "node.cloudprovider.kubernetes.io/shutdown",
        "aws-node-termination-handler/spot-itn",
        "aws-node-termination-handler/scheduled-maintenance",
        "aws-node-termination-handler/asg-lifecycle-termination",
        "aws-node-termination-handler/rebalance-recommendation",
        "karpenter.sh/disrupted",
        "ToBeDeletedByClusterAutoscaler",
        "DeletionCandidateOfClusterAutoscaler",
        "cloud.google.com/impending-node-termination",
    }
)
"""A node that is about to go. Sources: Kubernetes, "Well-Known Labels, Annotations and Taints"; the documentation of
AWS Node Termination Handler, Karpenter, Cluster Autoscaler, and GKE's spot nodes."""

PRESSURE_TAINTS: Final = frozenset(
    {
        "node.kubernetes.io/disk-pressure",
        "node.kubernetes.io/memory-pressure",
        "node.kubernetes.io/pid-pressure",
    }
)
"""Source: Kubernetes, "Taint Nodes by Condition". They stay for five minutes after the pressure. Not one of them is
``network-unavailable``: network plugins set it while they are restarted, and an upgrade of one would cost all pods."""

EVER_READY_MARGIN_S: Final = 5.0
"""A pod's condition Ready is false from when the kubelet first sees it. A later change means it was ready between."""

IMAGE_REASONS: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"})
CONFIG_REASONS: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
FAILING_REASONS: Final = frozenset({"CrashLoopBackOff"})
"""Why a container waits. Source: the kubelet's ``pkg/kubelet/images`` and ``kubelet.go``."""


DEAF_SHARE: Final = 0.5
"""If more of a pool's ready pods than this do not answer, the fault is the way to them, or the operator's. A guess."""


@dataclass(frozen=True)
class Report:
    """What an env server said of itself."""

    is_busy: bool
    is_drained: bool


@dataclass(frozen=True)
class Heard:
    """What the operator heard of env servers, by their pods' uids."""

    reports: Mapping[str, Report] = field(default_factory=dict)
    silent_s: Mapping[str, float] = field(default_factory=dict)
    """For how long questions have gone without an answer."""
    doubted_s: Mapping[str, float] = field(default_factory=dict)
    """How long ago a pod that answered was on a node that Kubernetes had lost: its kubelet is about to say that it is
    ready."""


def pool_view(
    env: OSWorldEnv,
    revision: str,
    pods: list[dict[str, Any]],
    nodes: Mapping[str, NodeState],
    heard: Heard,
    now_s: float,
) -> PoolView:
    """Return the pool at `now_s` (Unix time)."""
    spec = env.spec
    found: list[PodView] = []
    foreign: list[PodView] = []
    for pod in pods:
        report = heard.reports.get(pod["metadata"]["uid"])
        if seen := pod_view(pod, nodes, report, spec.scheduling.kvm_resource, now_s):
            if seen.node_name in nodes and _may_answer(seen) and seen.uid not in heard.silent_s:
                # The node's controller, not the kubelet, has set the pod to unready.
                seen = replace(seen, node=NodeState.DOUBTED, unready_s=None)
            if seen.unready_s is not None and seen.uid in heard.doubted_s:
                seen = replace(seen, unready_s=min(seen.unready_s, heard.doubted_s[seen.uid]))
            (found if owner_uid(pod) == env.metadata.uid else foreign).append(seen)
    silent_s = {pod.uid: heard.silent_s[pod.uid] for pod in found if pod.is_ready and pod.uid in heard.silent_s}
    is_doubtful = len(silent_s) > DEAF_SHARE * sum(pod.is_ready for pod in found)
    if not is_doubtful:
        found = [replace(pod, silent_s=silent_s.get(pod.uid)) for pod in found]
    return PoolView(
        replicas=spec.replicas,
        spares=spec.spares,
        revision=revision,
        strategy=spec.update.strategy,
        max_unavailable=spec.update.max_unavailable.of(spec.replicas),
        pods=tuple(sorted(found, key=lambda pod: pod.slot)),
        foreign=tuple(foreign),
        is_deaf=is_doubtful and max(silent_s.values()) >= SILENT_S,
    )


def pod_view(
    pod: dict[str, Any], nodes: Mapping[str, NodeState], report: Report | None, kvm_resource: str, now_s: float
) -> PodView | None:
    """Return one pod, or None where its labels say that it is not one of ours."""
    head, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    labels = head.get("labels", {})
    slot, env_idx = _number(labels.get(LABEL_SLOT)), _number(labels.get(LABEL_ENV_IDX))
    if slot is None:
        return None
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    ready = conditions.get("Ready", {})
    is_ready = ready.get("status") == "True"
    is_failed = status.get("phase") in ("Failed", "Succeeded")
    unready_s = None if is_ready else _unready_s(ready, status, now_s)
    return PodView(
        name=head["name"],
        slot=slot,
        uid=head["uid"],
        resource_version=head["resourceVersion"],
        created_s=_time(head["creationTimestamp"]),
        revision=labels.get(LABEL_REVISION, ""),
        env_idx=env_idx,
        epoch=_number(labels.get(LABEL_ENV_EPOCH)) or 0,
        is_ready=is_ready,
        is_down=is_failed or _server_is_down(status),
        is_failed=is_failed,
        unready_s=unready_s,
        is_terminating="deletionTimestamp" in head,
        is_busy=report.is_busy if report else None,
        is_sent_away=ANNOTATION_DRAIN in head.get("annotations", {}),
        is_drained=report.is_drained if report else False,
        is_retired=LABEL_RETIRED in labels,
        node=_node(spec.get("nodeName"), nodes),
        node_name=spec.get("nodeName"),
        hold=_hold(conditions, status, kvm_resource, is_new=not (is_ready or is_failed) and unready_s is None),
        address=status.get("podIP"),
    )


def node_state(node: dict[str, Any]) -> NodeState:
    """Return what `node` means for the pods on it."""
    taints = {taint["key"] for taint in node.get("spec", {}).get("taints", ())}
    conditions = node.get("status", {}).get("conditions", ())
    is_ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    if not is_ready or taints & LOST_TAINTS:
        return NodeState.LOST
    if node.get("spec", {}).get("unschedulable") or taints & LEAVING_TAINTS:
        return NodeState.LEAVING
    return NodeState.PRESSED if taints & PRESSURE_TAINTS else NodeState.SOUND


def _node(name: str | None, nodes: Mapping[str, NodeState]) -> NodeState:
    if name is None:
        return NodeState.NONE
    return nodes.get(name, NodeState.LOST)


def _may_answer(pod: PodView) -> bool:
    """Return whether `pod`, which Kubernetes cannot reach, had an env server that can be asked."""
    return pod.node is NodeState.LOST and pod.address is not None and not (pod.is_down or pod.is_drained)


def _server_is_down(status: dict[str, Any]) -> bool:
    """Return whether the env server's container ran and does not run now."""
    for container in status.get("containerStatuses", ()):
        if container["name"] == CONTAINER_SERVER:
            state = container.get("state", {})
            ran = "terminated" in state or "terminated" in container.get("lastState", {})
            return ran and "running" not in state
    return False


def _unready_s(ready: dict[str, Any], status: dict[str, Any], now_s: float) -> float | None:
    since, began = ready.get("lastTransitionTime"), status.get("startTime")
    if since is None or began is None or _time(since) - _time(began) < EVER_READY_MARGIN_S:
        return None
    return max(now_s - _time(since), 0.0)


def _hold(conditions: dict[str, Any], status: dict[str, Any], kvm_resource: str, *, is_new: bool) -> Hold | None:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        message = scheduled.get("message", "")
        return Hold(_unschedulable_reason(message, kvm_resource), message)
    for container in status.get("containerStatuses", ()):
        waiting = container.get("state", {}).get("waiting", {})
        message = f"container {container['name']}: {waiting.get('reason')}: {waiting.get('message', '')}".rstrip(": ")
        if waiting.get("reason") in IMAGE_REASONS:
            return Hold(ConditionReason.IMAGE_NOT_FOUND, message)
        if waiting.get("reason") in CONFIG_REASONS:
            is_secret = "secret" in message.lower()
            return Hold(ConditionReason.SECRET_NOT_FOUND if is_secret else ConditionReason.POD_REFUSED, message)
        end = _end(container)
        # Between two back-offs it runs, and ends again: that it was never up is what holds the pod.
        is_no_start = end is not None and container["name"] == CONTAINER_SERVER and is_new
        if is_no_start or waiting.get("reason") in FAILING_REASONS:
            return Hold(ConditionReason.PODS_FAILING, f"container {container['name']}: {end}" if end else message)
    return None


def _end(container: dict[str, Any]) -> str | None:
    """Return how a container ended last, None where it has not: in its own last words, if it had any."""
    state, before = container.get("state", {}), container.get("lastState", {})
    ended = state.get("terminated") or before.get("terminated")
    if ended is None:
        return None
    words = [line.strip() for line in ended.get("message", "").splitlines() if line.strip()]
    return redact(words[-1]) if words else f"{ended.get('reason', 'ended')}, exit code {ended.get('exitCode')}"


def _unschedulable_reason(message: str, kvm_resource: str) -> ConditionReason:
    """Return the reason in the scheduler's words: ``0/3 nodes are available: 3 Insufficient osworld.dev/kvm. ...``."""
    wanted = {
        f"Insufficient {kvm_resource}": ConditionReason.NO_KVM_DEVICE,
        "Insufficient memory": ConditionReason.INSUFFICIENT_MEMORY,
        "Insufficient cpu": ConditionReason.INSUFFICIENT_CPU,
    }
    for words, reason in wanted.items():
        if words in message and words != "Insufficient ":
            return reason
    return ConditionReason.UNSCHEDULABLE


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
