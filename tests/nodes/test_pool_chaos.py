"""Episodes on two real nodes while pods, env servers, routers and at times a node go away: no wrong score."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import httpx
import pytest

from chaos.judgement import HUNG_S, Note, part_right, play_all, told
from chaos.player import SCRIPTS, Outcome, Script, play, play_masking
from nodes.breaker import POWER, PodBreaker
from nodes.pool_rig import REPLICAS, SPEC, RunningPool, running_pool
from nodes.real_cluster import RealCluster

EPISODES = 200
PAUSE_S = 10.0
SHOWN_CHARS = 300

OFFLINE = tuple(replace(script, task={**script.task, "offline": True}) for script in SCRIPTS)
"""A pod's desktop has a network: only a task that says that it needs none is played again on another one."""


@pytest.fixture(scope="module")
def desks(cluster: RealCluster) -> Iterator[RunningPool]:
    """Four envs and two spares, whole."""
    with running_pool(cluster, spec={**SPEC, "spares": 2}) as running:
        yield running


def play_and_ask_again(url: str, token: str, script: Script) -> Outcome:
    """Play with our client; where the pool has masked the episode, ask for its score all the same, as trainers do.

    An evaluate that was masked for a reason that has passed may have its score then. Another number is a wrong score.
    """
    outcome = play_masking(url, token, script)
    if outcome.is_masked:
        with suppress(httpx.TransportError):
            reply = httpx.post(f"{url}/env/evaluate", json={}, auth=("job", token), timeout=HUNG_S, trust_env=False)
            outcome.errors.append(f"asked again: {reply.status_code} {reply.text[:SHOWN_CHARS]}")
            if reply.is_success and reply.json() != script.score:
                outcome.score = float(reply.json())
    return outcome


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_pods_and_a_node_that_go_away_make_no_wrong_score(desks: RunningPool, record_property: Note) -> None:
    """The node whose address the client has stays: a client whose own way is cut has nobody to ask."""
    desks.wait_apart()
    kept, losing = desks.cluster.nodes.values()
    url = desks.url(kept)
    with PodBreaker(desks, losing, PAUSE_S, seed=7) as breaker:
        outcomes = play_all(url, desks.token, REPLICAS, EPISODES, play_and_ask_again, OFFLINE)
    right = part_right(outcomes, breaker.done, record_property)
    assert breaker.done[POWER]
    assert right >= 0.99, told(outcomes)

    desks.cluster.wait_ready()
    desks.wait_apart()
    undisturbed = play_all(url, desks.token, REPLICAS, REPLICAS * len(OFFLINE), play, OFFLINE)
    assert all(outcome.is_right for outcome in undisturbed), told(undisturbed)
