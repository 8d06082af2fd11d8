"""Spares on more than one node: which get numbers, which are sent elsewhere, and where new pods are asked to go."""

from dataclasses import replace
from typing import Any

import pytest

from osworld_contract.crd import OSWorldEnv
from osworld_operator.actions import Action, Assign, Create, Drain
from osworld_operator.apart import Parting
from osworld_operator.children import ChildSettings, env_pod
from osworld_operator.decide import decide
from osworld_operator.hosts import host
from osworld_operator.view import NodeState, PodView, PoolView
from pools import pool as pool_of

HOSTS = frozenset({"n0", "n1"})
CHILDREN = ChildSettings("env:1", "desktop:1", "router:1", "system")


def pod(slot: int, node: str | None, env_idx: int | None = None, **more: Any) -> PodView:
    epoch = 0 if env_idx is None else env_idx + 1
    found = PodView(f"desks-{slot}", slot, f"u{slot}", "1", float(slot), env_idx=env_idx, epoch=epoch, is_ready=True)
    return replace(found, node_name=node, address="10.0.0.1", **more)


def view(*pods: PodView, hosts: frozenset[str] = HOSTS, may_part: bool = True) -> PoolView:
    spares = sum(pod.env_idx is None for pod in pods)
    return PoolView(len(pods) - spares, spares, "", pods=pods, hosts=hosts, may_part=may_part)


ALL_ON_ONE = (pod(0, "n0", 0), pod(1, "n0", 1), pod(2, "n0"), pod(3, "n0"))
"""As it is after a loss, once the other node is back."""


def test_the_youngest_of_spares_that_would_be_lost_together_is_sent_elsewhere() -> None:
    assert decide(view(*ALL_ON_ONE)) == [Drain(ALL_ON_ONE[3])]


@pytest.mark.parametrize(
    "pods",
    [
        (pod(0, "n0", 0), pod(1, "n0"), pod(2, "n1")),  # one is left, whichever node is lost
        (pod(0, "n0", 0), pod(1, "n1")),  # where no env is
        (pod(0, "n0", 0), pod(1, "n1", 1), pod(2, "n1")),  # one alone cannot be better placed
        (pod(0, "n0", 0), pod(1, "n0", 1)),  # none
        (pod(0, "n0", 0), pod(1, "n0"), pod(2, "n0", is_ready=False)),  # a replacement is on its way
    ],
)
def test_otherwise_nothing_is_sent_anywhere(pods: tuple[PodView, ...]) -> None:
    assert decide(view(*pods)) == []


def test_a_single_spare_goes_to_a_node_without_envs() -> None:
    alone = (pod(0, "n0", 0), pod(1, "n0"))
    assert decide(view(*alone)) == [Drain(alone[1])]
    assert decide(view(*alone, hosts=frozenset({"n0"}))) == [], "there is no such node"


def test_what_is_urgent_comes_first() -> None:
    lost = replace(pod(0, "n1", 0), node=NodeState.LOST)
    actions = decide(view(lost, *ALL_ON_ONE[1:]))
    assert any(isinstance(action, Assign) for action in actions)
    assert not any(isinstance(action, Drain) for action in actions)


def test_numbers_go_to_the_node_with_more_spares() -> None:
    spares = (pod(1, "n0"), pod(2, "n1"), pod(3, "n1"))
    [move] = decide(replace(view(*spares), replicas=1, spares=2))
    assert move == Assign(spares[1], 0)


def test_a_new_pod_is_asked_to_keep_away_from_spares() -> None:
    there = view(pod(0, "n0", 0), pod(1, "n0"))
    assert decide(replace(there, spares=2)) == [Create(2, ("n0",))]
    many = [pod(slot, f"n{slot}") for slot in range(9)]
    assert decide(replace(view(*many), spares=10)) == [Create(9)], "one more there does no harm"


def drained(pods: tuple[PodView, ...], uid: str) -> tuple[PodView, ...]:
    return tuple(replace(pod, is_drained=True, is_ready=False) if pod.uid == uid else pod for pod in pods)


def decided(memory: Parting, *pods: PodView, hosts: frozenset[str] = HOSTS) -> list[Action]:
    seen = view(*pods, hosts=hosts, may_part=False)
    seen = replace(seen, may_part=memory.may_try(seen))
    actions = decide(seen)
    memory.note(seen, actions)
    return actions


def test_there_is_one_try_for_a_pool_and_one_for_each_node_that_comes() -> None:
    memory, youngest, one = Parting(), ALL_ON_ONE[3], frozenset({"n0"})
    assert decided(memory, *ALL_ON_ONE, hosts=one) == [], "there is no better place"
    for _ in range(2):
        assert decided(memory, *ALL_ON_ONE) == [Drain(youngest)], "it may not have heard the first time"
    decided(memory, *drained(ALL_ON_ONE, youngest.uid))
    in_vain = (*ALL_ON_ONE[:3], pod(4, "n0"))
    assert decided(memory, *in_vain) == decided(memory, *in_vain, hosts=one) == []
    assert decided(memory, *in_vain) == [Drain(in_vain[3])], "it has come once more"
    assert decided(Parting(), *in_vain) == [Drain(in_vain[3])], "an operator that has just started, or a new pool"


def test_a_single_spare_is_tried_for_a_node_that_comes_alone() -> None:
    memory, alone = Parting(), (pod(0, "n0", 0), pod(1, "n0"))
    assert decided(memory, *alone) == [], "an operator that has just started, as after each of its deaths"
    assert decided(memory, *alone, hosts=frozenset({"n0"})) == []
    assert decided(memory, *alone) == [Drain(alone[1])]


def env(**spec: Any) -> OSWorldEnv:
    body = pool_of(**spec)
    body["metadata"] |= {"uid": "u", "generation": 1, "resourceVersion": "1"}
    return OSWorldEnv.model_validate(body)


def test_the_wish_of_a_pod_stands_beside_its_pools_affinity_and_makes_it_no_other_revision() -> None:
    key = "preferredDuringSchedulingIgnoredDuringExecution"
    own = {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}
    given = env(scheduling={"affinity": {"nodeAffinity": {key: [own]}, "podAffinity": {}}})
    plain, away = env_pod(given, CHILDREN, 0), env_pod(given, CHILDREN, 0, ("n0", "n1"))
    assert plain["metadata"] == away["metadata"]
    assert plain["spec"]["affinity"] == given.spec.scheduling.affinity
    kept, wish = away["spec"]["affinity"]["nodeAffinity"][key]
    assert kept == own and set(away["spec"]["affinity"]) == {"nodeAffinity", "podAffinity"}
    assert wish["preference"]["matchFields"] == [
        {"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in ("n0", "n1")
    ]


NODE: dict[str, Any] = {
    "metadata": {"name": "n0", "labels": {"kind": "metal"}},
    "spec": {
        "taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}, {"key": "a", "effect": "PreferNoSchedule"}]
    },
    "status": {"allocatable": {"cpu": "8", "osworld.dev/kvm": "4", "example.com/gpu": "0"}},
}
TOLERANT: dict[str, Any] = {"tolerations": [{"key": "gpu", "operator": "Exists"}], "containers": []}


def wants(device: str) -> list[dict[str, Any]]:
    return [{"resources": {"limits": {"memory": "1Gi", device: "1"}}}]


@pytest.mark.parametrize(
    ("spec", "takes"),
    [
        (TOLERANT, True),
        ({"containers": []}, False),
        ({**TOLERANT, "tolerations": [{"key": "gpu", "value": "yes"}]}, True),
        ({**TOLERANT, "tolerations": [{"key": "gpu", "value": "no"}]}, False),
        ({**TOLERANT, "tolerations": [{"operator": "Exists", "effect": "NoExecute"}]}, False),
        ({**TOLERANT, "nodeSelector": {"kind": "metal"}}, True),
        ({**TOLERANT, "nodeSelector": {"kind": "wood"}}, False),
        ({**TOLERANT, "containers": wants("osworld.dev/kvm")}, True),
        ({**TOLERANT, "containers": wants("example.com/gpu")}, False),
        ({**TOLERANT, "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}}, False),
    ],
)
def test_a_node_takes_the_pods_that_its_labels_taints_and_devices_let_in(spec: dict[str, Any], takes: bool) -> None:
    assert host(NODE).takes(spec) is takes
