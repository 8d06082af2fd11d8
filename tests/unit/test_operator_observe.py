"""What the operator reads out of pods and nodes, in the words in which Kubernetes writes them."""

from typing import Any

import pytest

from osworld_contract.crd import ConditionReason, OSWorldEnv
from osworld_operator.observe import Heard, Report, node_state, pod_view, pool_view
from osworld_operator.view import Hold, NodeState, PodView, PoolView
from pools import pool as pool_of

NOW_S = 1_800_000_000.0
BEGAN = "2027-01-15T07:59:00Z"
LATER = "2027-01-15T07:59:40Z"
RUNNING = {"running": {"startedAt": BEGAN}}
ENDED = {"terminated": {"exitCode": 137}}
KVM = "osworld.dev/kvm"


def pod(labels: dict[str, str] | None = None, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "desks-3",
            "uid": "u3",
            "resourceVersion": "7",
            "creationTimestamp": BEGAN,
            "labels": {"osworld.dev/slot": "3", **(labels or {})},
        },
        "spec": {"nodeName": "n0"},
        "status": {"phase": "Running", "startTime": BEGAN, **status},
    }


def seen(given: dict[str, Any], report: Report | None = None) -> PodView:
    found = pod_view(given, {"n0": NodeState.SOUND}, report, KVM, NOW_S)
    assert found is not None
    return found


def ready(status: str, since: str) -> list[dict[str, str]]:
    return [{"type": "Ready", "status": status, "lastTransitionTime": since}]


def server(state: dict[str, Any], last: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [{"name": "server", "state": state, "lastState": last or {}}]


def test_a_pod_without_our_slot_is_none_of_ours() -> None:
    given = pod()
    given["metadata"]["labels"] = {}
    assert pod_view(given, {}, None, KVM, NOW_S) is None


def test_numbers_come_from_labels() -> None:
    found = seen(pod({"osworld.dev/env-idx": "12", "osworld.dev/env-epoch": "40"}))
    assert (found.slot, found.env_idx, found.epoch) == (3, 12, 40)


def test_a_pod_is_busy_or_drained_as_its_env_server_says() -> None:
    assert seen(pod()).is_busy is None
    found = seen(pod(), Report(is_busy=True, is_drained=True))
    assert (found.is_busy, found.is_drained) == (True, True)


def test_a_pod_that_was_never_ready_is_not_counted_as_stuck() -> None:
    assert seen(pod(conditions=ready("False", BEGAN))).unready_s is None
    assert seen(pod(conditions=ready("False", LATER))).unready_s == 20


@pytest.mark.parametrize(
    ("statuses", "is_down"),
    [
        (server(RUNNING), False),
        (server({"waiting": {"reason": "ContainerCreating"}}), False),
        (server(ENDED), True),
        (server({"waiting": {"reason": "CrashLoopBackOff"}}, ENDED), True),
        (server(RUNNING, ENDED), False),
        ([{"name": "desktop", "state": ENDED}], False),
    ],
)
def test_a_server_that_ran_and_does_not_is_down(statuses: list[dict[str, Any]], is_down: bool) -> None:
    assert seen(pod(containerStatuses=statuses)).is_down is is_down


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_a_pod_that_has_ended_is_failed(phase: str) -> None:
    found = seen(pod(phase=phase))
    assert found.is_failed and found.is_down and not found.is_alive


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("0/2 nodes are available: 2 Insufficient osworld.dev/kvm.", ConditionReason.NO_KVM_DEVICE),
        ("0/2 nodes are available: 2 Insufficient memory.", ConditionReason.INSUFFICIENT_MEMORY),
        ("0/2 nodes are available: 2 Insufficient cpu.", ConditionReason.INSUFFICIENT_CPU),
        ("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity.", ConditionReason.UNSCHEDULABLE),
    ],
)
def test_what_the_scheduler_says_becomes_a_reason(message: str, reason: ConditionReason) -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    hold = seen(pod(conditions=[condition])).hold
    assert hold is not None and (hold.reason, hold.message) == (reason, message)


@pytest.mark.parametrize(
    ("waiting", "message", "reason"),
    [
        ("ImagePullBackOff", 'Back-off pulling image "a:1"', ConditionReason.IMAGE_NOT_FOUND),
        ("CreateContainerConfigError", 'secret "desks-tokens" not found', ConditionReason.SECRET_NOT_FOUND),
        ("CreateContainerConfigError", "container has runAsNonRoot", ConditionReason.POD_REFUSED),
        ("CrashLoopBackOff", "back-off 10s", ConditionReason.PODS_FAILING),
    ],
)
def test_what_a_container_waits_for_becomes_a_reason(waiting: str, message: str, reason: ConditionReason) -> None:
    hold = seen(pod(containerStatuses=server({"waiting": {"reason": waiting, "message": message}}))).hold
    assert hold is not None and hold.reason is reason and message in hold.message


SAID = "ERROR osworld_envpod: https://e.example.com/a.qcow2 is not there (404)"
NO_START = {"terminated": {"exitCode": 1, "reason": "Error", "message": f"INFO fetching\n{SAID}\n"}}
TURNS = [
    server(NO_START),
    server({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}, NO_START),
    server(RUNNING, NO_START),
    server(NO_START, NO_START),
    server({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}}, NO_START),
]
"""What the kubelet says, turn by turn, of an env server that cannot start."""


def test_what_an_env_server_that_cannot_start_said_is_shown_at_every_turn() -> None:
    holds = {seen(pod(conditions=ready("False", BEGAN), containerStatuses=turn)).hold for turn in TURNS}
    assert holds == {Hold(ConditionReason.PODS_FAILING, f"container server: {SAID}")}


def test_secrets_in_last_words_stay_there() -> None:
    ended = {"terminated": {"exitCode": 1, "message": "https://me:hunter2@e.example.com/a.qcow2: 401"}}
    hold = seen(pod(conditions=ready("False", BEGAN), containerStatuses=server(RUNNING, ended))).hold
    assert hold is not None and "e.example.com/a.qcow2: 401" in hold.message and "hunter2" not in hold.message


def test_an_env_server_that_ended_without_a_word_has_its_exit_code_shown() -> None:
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    hold = seen(pod(conditions=ready("False", BEGAN), containerStatuses=server(RUNNING, killed))).hold
    assert hold is not None and hold.message == "container server: OOMKilled, exit code 137"


@pytest.mark.parametrize(
    "given",
    [
        pod(conditions=ready("True", LATER), containerStatuses=server(RUNNING, NO_START)),
        pod(conditions=ready("False", LATER), containerStatuses=server(RUNNING, NO_START)),
        pod(
            conditions=ready("False", BEGAN),
            containerStatuses=[{"name": "desktop", "state": RUNNING, "lastState": NO_START}],
        ),
        pod(phase="Failed", conditions=ready("False", BEGAN), containerStatuses=server(NO_START)),
    ],
)
def test_a_server_that_came_up_once_is_not_held_while_it_runs(given: dict[str, Any]) -> None:
    assert seen(given).hold is None


def node(ready: str = "True", taints: tuple[str, ...] = (), **spec: Any) -> dict[str, Any]:
    return {
        "spec": {"taints": [{"key": key} for key in taints], **spec},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


@pytest.mark.parametrize(
    ("given", "state"),
    [
        (node(), NodeState.SOUND),
        (node("Unknown"), NodeState.LOST),
        (node("False"), NodeState.LOST),
        (node(taints=("node.kubernetes.io/unreachable",)), NodeState.LOST),
        (node(unschedulable=True), NodeState.LEAVING),
        (node(taints=("aws-node-termination-handler/spot-itn",)), NodeState.LEAVING),
        (node(taints=("example.com/mine",)), NodeState.SOUND),
        (node(taints=("node.kubernetes.io/memory-pressure",)), NodeState.PRESSED),
        (node(taints=("node.kubernetes.io/disk-pressure",)), NodeState.PRESSED),
        (node(taints=("node.kubernetes.io/pid-pressure",)), NodeState.PRESSED),
        (node(taints=("node.kubernetes.io/pid-pressure",), unschedulable=True), NodeState.LEAVING),
        (node("Unknown", taints=("node.kubernetes.io/disk-pressure",)), NodeState.LOST),
        (node(taints=("node.kubernetes.io/network-unavailable",)), NodeState.SOUND),
    ],
)
def test_what_a_node_means_for_its_pods(given: dict[str, Any], state: NodeState) -> None:
    assert node_state(given) is state


@pytest.mark.parametrize("value", ["true", ""])
def test_a_pod_is_sent_away_by_an_annotation_of_any_value(value: str) -> None:
    sent = pod()
    sent["metadata"]["annotations"] = {"osworld.dev/drain": value}
    assert (seen(sent).is_sent_away, seen(pod()).is_sent_away) == (True, False)


def test_a_node_that_is_not_known_is_lost() -> None:
    found = pod_view(pod(), {}, None, KVM, NOW_S)
    assert found is not None and found.node is NodeState.LOST


def owner(uid: str) -> dict[str, Any]:
    return {"kind": "OSWorldEnv", "name": "desks", "uid": uid, "controller": True}


def many(count: int) -> list[dict[str, Any]]:
    """Return ready pods with the uids u0, u1, ..."""
    found = []
    for slot in range(count):
        given = pod({"osworld.dev/slot": str(slot)}, conditions=ready("True", LATER), podIP=f"10.0.0.{slot}")
        given["metadata"] |= {"name": f"desks-{slot}", "uid": f"u{slot}", "ownerReferences": [owner("env-1")]}
        found.append(given)
    return found


def heard(
    silent_s: dict[str, float],
    pods: list[dict[str, Any]],
    node: NodeState | None = NodeState.SOUND,
    doubted_s: dict[str, float] | None = None,
) -> PoolView:
    body = pool_of(replicas=2, spares=2)
    body["metadata"]["uid"] = "env-1"
    env = OSWorldEnv.model_validate(body)
    return pool_view(env, "", pods, {"n0": node} if node else {}, Heard({}, silent_s, doubted_s or {}), NOW_S)


def test_a_pod_whose_env_server_does_not_answer_is_silent() -> None:
    view = heard({"u1": 400.0, "gone": 9.0}, many(4))
    assert [found.silent_s for found in view.pods] == [None, 400.0, None, None]
    assert not view.is_deaf


def test_an_unready_pod_is_not_silent() -> None:
    pods = many(4)
    pods[1]["status"]["conditions"] = ready("False", LATER)
    assert heard({"u1": 400.0}, pods).pods[1].silent_s is None


def test_a_node_is_lost_for_a_pod_whose_env_server_does_not_answer_either() -> None:
    pods = many(4)
    for given in pods[:3]:  # by the nodes' controller, not by a kubelet
        given["status"]["conditions"] = ready("False", LATER)
    del pods[2]["status"]["podIP"]
    first, silent, unknown, _ = heard({"u1": 3.0}, pods, NodeState.LOST).pods
    assert (first.node, first.unready_s) == (NodeState.DOUBTED, None)
    assert silent.node is unknown.node is NodeState.LOST
    assert all(found.node is NodeState.LOST for found in heard({}, pods, None).pods), "a node that is gone"


def test_a_pod_of_a_node_that_came_back_has_its_time_anew() -> None:
    """Its condition is that of the nodes' controller until the kubelet has had its say."""
    pods = many(2)
    for given in pods:
        given["status"]["conditions"] = ready("False", LATER)
    first, other = heard({}, pods, doubted_s={"u0": 2.0}).pods
    assert first.unready_s == 2.0
    assert other.unready_s is not None and other.unready_s > 2.0


def test_where_most_do_not_answer_the_fault_is_not_theirs() -> None:
    view = heard({"u0": 400.0, "u1": 400.0, "u2": 20.0}, many(4))
    assert all(found.silent_s is None for found in view.pods) and view.is_deaf
    assert not heard({"u0": 40.0, "u1": 40.0, "u2": 20.0}, many(4)).is_deaf, "not yet worth a word"


def test_pods_of_another_object_of_that_name_are_none_of_the_pools() -> None:
    pods = many(3)
    pods[0]["metadata"]["ownerReferences"] = [owner("env-0")]
    pods[1]["metadata"]["ownerReferences"] = []
    view = heard({}, pods)
    assert ([found.slot for found in view.pods], [found.slot for found in view.foreign]) == ([2], [0, 1])
