"""`decide` in a cluster in miniature where anything may happen, and where the operator dies between any two actions.

The simulation itself is put to the test: rules with a mistake planted must be found out.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from full_sim import FullCluster, MeanCluster
from osworld_operator.actions import Action, Assign, Create, Delete, Drain
from osworld_operator.decide import decide
from osworld_operator.view import NodeState, PoolView
from pool_rules import RuleBrokenError
from pool_sim import HOSTS, Decide, SimCluster

EVENTS = 60
SEEDS = st.integers(0, 2**32)


def live(seed: int, rules: Decide, kind: type[SimCluster] = SimCluster) -> SimCluster:
    """Run a pool through a random life, then let it come to rest, and return it."""
    chance = random.Random(seed)
    cluster = kind(chance, rules)
    for _ in range(EVENTS):
        happening = chance.random()
        if happening < 0.1:
            cluster.scale(chance.randint(0, 6), chance.randint(0, 2))
        elif happening < 0.14:
            cluster.revision = f"r{chance.randint(0, 3)}"
        elif happening < 0.6:
            cluster.happen()
        elif happening < 0.7:
            stale = cluster.view()
            cluster.happen()
            cluster.round(view=stale)
        else:
            cluster.round(steps=chance.choice([None, None, 0, 1, 2, 3]))
    for pod in cluster.pods.values():
        if pod.node in (NodeState.LOST, NodeState.DOUBTED):
            pod.node = NodeState.SOUND
            pod.version += 1
        pod.is_held = False
    cluster.hosts = HOSTS
    cluster.settle()
    return cluster


def assert_exact(cluster: SimCluster) -> None:
    """Hold a pool at rest against what was asked for."""
    pods = list(cluster.pods.values())
    if len(pods) != cluster.expected:
        raise RuleBrokenError(f"{len(pods)} pods for {cluster.replicas} + {cluster.spares}")
    numbers = sorted(pod.env_idx for pod in pods if pod.env_idx is not None)
    if numbers != list(range(cluster.replicas)):
        raise RuleBrokenError(f"numbers {numbers}")
    if any(pod.revision != cluster.revision for pod in pods):
        raise RuleBrokenError("an outdated pod was left")
    epochs = [pod.epoch for pod in pods if pod.env_idx is not None]
    if len(set(epochs)) != len(epochs) or max(epochs, default=0) > cluster.last_epoch:
        raise RuleBrokenError(f"epochs {epochs} of {cluster.last_epoch}")


@settings(max_examples=1500, deadline=None)
@given(SEEDS)
def test_whatever_happens_no_rule_is_broken_and_the_pool_comes_to_rest(seed: int) -> None:
    assert_exact(live(seed, decide))


@settings(max_examples=500, deadline=None)
@given(SEEDS, st.sampled_from([FullCluster, MeanCluster]))
def test_where_only_the_replicas_fit_a_pool_comes_to_rest_as_well(seed: int, kind: type[SimCluster]) -> None:
    assert_exact(live(seed, decide, kind))


def without_consent(view: PoolView) -> list[Action]:
    """Delete what should be drained."""
    return [Delete(action.pod) if isinstance(action, Drain) else action for action in decide(view)]


def twice(view: PoolView) -> list[Action]:
    """Give a number to two spares."""
    actions = decide(view)
    moves = [action for action in actions if isinstance(action, Assign)]
    for move in moves:
        others = (pod for pod in view.pods if pod.is_ready and pod.env_idx is None and pod.uid != move.pod.uid)
        if spare := next(others, None):
            return [*actions, Assign(spare, move.env_idx)]
    return actions


def too_many(view: PoolView) -> list[Action]:
    """Make one pod more than is asked for whenever one is missing."""
    actions = decide(view)
    if any(isinstance(action, Create) for action in actions):
        return [*actions, Create(max((pod.slot for pod in view.pods), default=0) + 50)]
    return actions


def never_down(view: PoolView) -> list[Action]:
    """Forget to remove what is too much."""
    return [action for action in decide(view) if not isinstance(action, Drain)]


def to_anybody(view: PoolView) -> list[Action]:
    """Give numbers to pods that are not ready."""
    free = [pod for pod in view.pods if pod.env_idx is None and not pod.is_ready]
    missing = set(range(view.replicas)) - set(view.holders)
    return [*decide(view), *(Assign(pod, idx) for pod, idx in zip(free, missing, strict=False))]


def impatient(view: PoolView) -> list[Action]:
    """Move a number from a pod that serves."""
    spare = next((pod for pod in view.pods if pod.is_ready and pod.env_idx is None and pod.is_alive), None)
    holder = next((pod for pod in view.pods if pod.is_ready and pod.env_idx is not None and pod.is_alive), None)
    if spare and holder and holder.env_idx is not None:
        return [Assign(spare, holder.env_idx, holder)]
    return decide(view)


def deaf(view: PoolView) -> list[Action]:
    """Take a pod that a router has turned away from for a spare, whatever it is in the middle of."""
    return [replace(action, is_wished=False) if isinstance(action, Assign) else action for action in decide(view)]


def tireless(view: PoolView) -> list[Action]:
    """Send a spare to a node that is full, again and again."""
    return decide(replace(view, may_part=True))


def blind(view: PoolView) -> list[Action]:
    """Take the names of pods that are not the pool's own for free."""
    return decide(replace(view, foreign=()))


def stubborn(view: PoolView) -> list[Action]:
    """Never make room for an update."""
    return decide(replace(view, may_swap=False))


def violations(rules: Callable[[PoolView], list[Action]], kind: type[SimCluster] = SimCluster) -> Iterator[int]:
    """Yield the seeds at which a mistake is found out."""
    for seed in range(150):
        try:
            assert_exact(live(seed, rules, kind))
        except RuleBrokenError:
            yield seed


@pytest.mark.parametrize(
    "mistake", [without_consent, twice, too_many, never_down, to_anybody, impatient, deaf, tireless, blind]
)
def test_the_simulation_finds_a_planted_mistake(mistake: Decide) -> None:
    assert next(violations(mistake), None) is not None


def careless(view: PoolView) -> list[Action]:
    """Give numbers to spares without a look at what they are in the middle of."""
    return decide(replace(view, pods=tuple(replace(pod, is_busy=None) for pod in view.pods)))


def cut_off_and_back(seed: int, rules: Decide) -> None:
    """Have a pod lose its env_idx in an episode and come back, and then another env_idx be given away."""
    cluster = SimCluster(random.Random(seed), rules)
    cluster.replicas, cluster.spares = 2, 2
    cluster.settle()
    before, other = (next(pod for pod in cluster.pods.values() if pod.env_idx == idx) for idx in range(2))
    cluster.cut_off(before)
    cluster.round()
    assert before.is_busy and before.env_idx is None
    cluster.come_back()
    cluster.cut_off(other)
    cluster.round()
    assert other.env_idx is None


def test_a_pod_that_was_cut_off_in_an_episode_is_the_last_to_get_another_env_idx() -> None:
    for seed in range(20):
        cut_off_and_back(seed, decide)
    with pytest.raises(RuleBrokenError, match="old episode"):
        for seed in range(20):
            cut_off_and_back(seed, careless)


@pytest.mark.parametrize("kind", [FullCluster, MeanCluster])
def test_the_simulation_finds_an_update_that_never_comes(kind: type[SimCluster]) -> None:
    assert next(violations(stubborn, kind), None) is not None
