"""Updates where the cluster has no room for the whole pool: which pods make room, and what a bad spec costs."""

import random
from dataclasses import replace

import pytest

from full_sim import UNFIT, FullCluster, MeanCluster
from osworld_contract.crd import ConditionReason
from osworld_operator.actions import Create, Delete, Drain
from osworld_operator.decide import decide
from osworld_operator.swaps import STILL_S, Swaps
from osworld_operator.view import Hold, NodeState, PodView, PoolView
from pool_sim import SimCluster

REPLICAS, SPARES = 4, 2
HOLD = Hold(ConditionReason.NO_KVM_DEVICE, "0/1 nodes are available")


def full(kind: type[FullCluster] | type[MeanCluster], missing: int) -> SimCluster:
    """Return a pool at rest of which so many pods do not fit."""
    cluster = kind(random.Random(7), decide)
    cluster.replicas, cluster.spares = REPLICAS, SPARES
    room = REPLICAS + SPARES - missing
    if isinstance(cluster, FullCluster):
        cluster.places = room
    else:
        cluster.quota = room
    cluster.settle()
    return cluster


def up(cluster: SimCluster) -> int:
    return sum(pod.is_ready and not pod.is_terminating and not pod.is_drained for pod in cluster.pods.values())


@pytest.mark.parametrize("kind", [FullCluster, MeanCluster])
@pytest.mark.parametrize("missing", [1, 2, 3])
def test_an_update_goes_on_one_pod_at_a_time(kind: type[FullCluster] | type[MeanCluster], missing: int) -> None:
    cluster = full(kind, missing)
    before, cluster.revision = up(cluster), "new"
    least = before
    for _ in range(60):
        cluster.settle(rounds=1, is_patient=True)
        least = min(least, up(cluster))
    assert {pod.revision for pod in cluster.pods.values()} == {"new"}
    assert (least, up(cluster)) == (before - 1, before)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_spec_that_fits_nowhere_costs_one_pod(missing: int) -> None:
    cluster = full(FullCluster, missing)
    before, cluster.revision = up(cluster), UNFIT
    for _ in range(60):
        cluster.settle(rounds=1, is_patient=True)
    assert up(cluster) == before - 1


def pod(slot: int, revision: str = "old", **more: object) -> PodView:
    found = PodView(
        f"desks-{slot}", slot, f"u{slot}", "1", float(slot), revision=revision, is_ready=True, is_busy=False
    )
    return replace(found, env_idx=slot, epoch=slot + 1, address="10.0.0.1", **more)  # type: ignore[arg-type]


def held(slot: int) -> PodView:
    return replace(pod(slot, "new"), env_idx=None, epoch=0, is_ready=False, node=NodeState.NONE, hold=HOLD)


def view(*pods: PodView) -> PoolView:
    return PoolView(2, 1, "new", pods=pods)


def test_a_pod_makes_room_only_after_nothing_has_changed_for_a_while() -> None:
    swaps, present = Swaps(), view(pod(0), pod(1), held(2))
    assert not swaps.may_try(present, 100.0)
    assert not swaps.may_try(view(pod(0), pod(1), held(3)), 100.0 + STILL_S), "another pod waits"
    assert swaps.may_try(view(pod(0), pod(1), held(3)), 100.0 + 2 * STILL_S)
    assert not swaps.may_try(view(pod(0, "new"), pod(1, "new")), 1000.0), "there is nothing to update"


def test_one_that_has_not_agreed_is_asked_again_and_one_that_has_was_the_last() -> None:
    swaps, present = Swaps(), view(pod(0), pod(1), held(2))
    for now_s in (0.0, STILL_S):
        may_swap = swaps.may_try(present, now_s)
    actions = decide(replace(present, may_swap=may_swap))
    assert actions == [Drain(present.pods[0], is_swap=True)]
    assert swaps.note(present, actions) == present.pods[0]
    assert swaps.may_try(present, 2 * STILL_S)
    assert swaps.note(present, actions) is None, "once is enough for the log"
    after = view(pod(1), held(2), held(3))
    assert not any(swaps.may_try(after, now_s) for now_s in (3 * STILL_S, 4 * STILL_S)), "it brought nothing up"
    assert not swaps.may_try(brought := view(pod(1), replace(pod(2, "new"), env_idx=0), held(3)), 5 * STILL_S)
    assert swaps.may_try(brought, 6 * STILL_S)


@pytest.mark.parametrize(
    "pods",
    [
        (pod(0), pod(1), replace(held(2), node=NodeState.SOUND)),  # an image that cannot be pulled: room does not help
        (pod(0), pod(1), replace(held(2), hold=None)),  # not yet looked at by the scheduler
        (pod(0), pod(1), held(2), replace(pod(3), env_idx=None, is_terminating=True)),  # leaves room by itself
    ],
)
def test_where_it_would_not_help_or_need_not_nothing_makes_room(pods: tuple[PodView, ...]) -> None:
    assert decide(replace(view(*pods), may_swap=True)) == []


def test_a_pod_that_is_refused_is_one_without_room() -> None:
    assert decide(view(pod(0), pod(1))) == [Create(2)]
    assert decide(replace(view(pod(0), pod(1)), may_swap=True)) == [Drain(pod(0), is_swap=True), Create(2)]


def test_one_without_room_that_is_replaced_anyway_comes_first() -> None:
    late = replace(held(2), revision="old")
    assert decide(replace(view(pod(0), pod(1), late), may_swap=True)) == [Delete(late)]
