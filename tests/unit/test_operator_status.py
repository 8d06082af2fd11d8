"""What a pool's status says of it."""

from typing import Any

from osworld_contract.crd import Condition, ConditionReason, OSWorldEnv, OSWorldEnvStatus
from osworld_operator.actions import Action
from osworld_operator.decide import decide
from osworld_operator.status import invalid_status, pool_status
from osworld_operator.view import Hold, NodeState, PodView, PoolView
from pools import pool

NOW, EARLIER = "2027-01-15T08:00:00Z", "2027-01-15T07:00:00Z"


def pod(slot: int, **values: Any) -> PodView:
    given = {"revision": "r", "is_ready": True, "node_name": "n0", **values}
    return PodView(f"desks-{slot}", slot, f"u{slot}", "1", float(slot), **given)


def status_of(*pods: PodView, replicas: int = 1, before: OSWorldEnvStatus | None = None) -> OSWorldEnvStatus:
    body = pool(replicas=replicas, spares=0)
    body["metadata"]["generation"] = 4
    env = OSWorldEnv.model_validate(body).model_copy(update={"status": before or OSWorldEnvStatus()})
    view = PoolView(replicas=replicas, spares=0, revision="r", pods=pods)
    actions: list[Action] = decide(view)
    return pool_status(env, view, actions, None, NOW)


def condition(status: OSWorldEnvStatus, kind: str) -> Condition:
    return next(item for item in status.conditions if item.type == kind)


def test_a_whole_pool_is_ready_and_says_so() -> None:
    found = status_of(pod(0, env_idx=0, epoch=3, is_busy=True))
    assert (found.ready, found.busy, found.replicas, found.desired, found.updated) == (1, 1, 1, 1, 1)
    assert [condition(found, kind).status for kind in ("Ready", "Progressing", "Degraded")] == [
        "True",
        "False",
        "False",
    ]
    assert found.observed_generation == condition(found, "Ready").observed_generation == 4


def test_no_envs_asked_for_is_ready() -> None:
    assert condition(status_of(replicas=0), "Ready").reason == ConditionReason.SCALED_TO_ZERO


def test_a_condition_keeps_the_time_at_which_it_came() -> None:
    before = status_of(pod(0, env_idx=0))
    old = tuple(item.model_copy(update={"last_transition_time": EARLIER}) for item in before.conditions)
    after = status_of(pod(0, env_idx=0, is_ready=False), before=before.model_copy(update={"conditions": old}))
    assert condition(after, "Ready").last_transition_time == NOW
    assert condition(after, "Degraded").last_transition_time == EARLIER


def test_held_pods_name_what_they_lack() -> None:
    hold = Hold(ConditionReason.NO_KVM_DEVICE, "0/2 nodes are available")
    found = status_of(pod(0, is_ready=False, hold=hold))
    assert condition(found, "Degraded").reason == ConditionReason.NO_KVM_DEVICE
    assert "1 of 1 pods: 0/2 nodes" in condition(found, "Degraded").message
    assert (found.faulted, found.troubled[0].reason) == (1, ConditionReason.NO_KVM_DEVICE)


def test_a_lost_node_is_named() -> None:
    found = status_of(pod(0, env_idx=0, node=NodeState.LOST, node_name="far"))
    assert condition(found, "Degraded").reason == ConditionReason.NODES_LOST
    assert "far" in condition(found, "Degraded").message
    assert (found.ready, found.replicas) == (0, 1)
    doubted = condition(status_of(pod(0, env_idx=0, node=NodeState.DOUBTED, node_name="far")), "Degraded")
    assert doubted.reason == ConditionReason.NODES_LOST
    assert doubted.message == "lost for Kubernetes, but env servers there answer: far"


def test_a_pod_that_goes_on_purpose_is_in_no_trouble() -> None:
    assert status_of(pod(0, is_drained=True), pod(1, is_terminating=True)).faulted == 0


def test_the_sample_of_troubled_pods_is_bounded_and_begins_with_those_that_have_a_number() -> None:
    many = [pod(slot, is_ready=False, is_down=True) for slot in range(40)]
    found = status_of(*many, pod(40, is_ready=False, is_down=True, env_idx=0), replicas=41)
    assert len(found.troubled) == 20
    assert found.troubled[0].pod == "desks-40"


def test_a_spec_that_is_not_understood_leaves_the_rest_of_the_status_alone() -> None:
    found = invalid_status({"ready": 3, "conditions": []}, 5, "replicas: what", NOW)
    assert found["ready"] == 3
    assert found["conditions"][0]["reason"] == "InvalidSpec"
    assert invalid_status(found, 5, "replicas: what", EARLIER) == found


def test_a_silent_env_server_is_named_and_so_is_a_deaf_operator() -> None:
    found = status_of(pod(0, env_idx=0, silent_s=400.0))
    assert (found.ready, found.faulted) == (0, 1)
    assert condition(found, "Degraded").reason == found.troubled[0].reason == ConditionReason.ENV_SERVERS_SILENT
    assert "desks-0" in condition(found, "Degraded").message
    view = PoolView(replicas=0, spares=0, revision="r", is_deaf=True)
    env = OSWorldEnv.model_validate(pool(replicas=0, spares=0))
    deaf = condition(pool_status(env, view, [], None, NOW), "Degraded")
    assert deaf.reason == ConditionReason.ENV_SERVERS_SILENT and "most pods" in deaf.message
