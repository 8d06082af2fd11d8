"""A pool on two real nodes: episodes through the router's URL while pods, servers, the API and a node go away."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chaos.player import SCRIPTS, Outcome, play
from cluster.helm import CHART, RELEASE, WAIT, helm
from cluster.operator_rig import NAMESPACE
from nodes.node import CGROUPS, POD_PIDS
from nodes.pool_rig import READY_S, REPLICAS, SPEC, TRAIN, RunningPool, running_pool
from nodes.real_cluster import EVICTION_S, NODE_GRACE_S, RealCluster
from osworld_env import EnvClient
from waiting import wait_until

pytestmark = pytest.mark.timeout(600)
"""The first test waits for the cluster and the pool."""

SAYS = SCRIPTS[0]
"""Its score shows a step that is lost, or carried out twice."""

SERVED_AGAIN_S = 60.0
"""Figures are those of the benchmarks; a test waits longer."""
NODE_LOST_S = NODE_GRACE_S + READY_S
"""The node that is left starts the pods of all but one or two envs, as if from nothing."""
FIRST_SERVED_S = NODE_GRACE_S + 15.0
"""From a node's cut to the first of its envs from the other node. 5 s over the grace are asked, and were met at a load
of up to 25 on two cores; the rest is for a machine that is slower still."""
OUTAGE_S = 30.0
JUDGED_S = NODE_GRACE_S + EVICTION_S + 5.0
"""After the API server's return: by then nodes that were taken for lost would have lost their pods."""


@pytest.fixture(scope="module")
def desks(cluster: RealCluster) -> Iterator[RunningPool]:
    """Four envs and a spare, whole."""
    with running_pool(cluster) as running:
        yield running


def play_on_all(desks: RunningPool) -> list[Outcome]:
    """Play one episode on every env at the same time."""

    def on_one(env_idx: int) -> Outcome:
        return play(f"{desks.url()}/envs/{env_idx}", desks.token, SCRIPTS[env_idx % len(SCRIPTS)])

    with ThreadPoolExecutor(REPLICAS) as threads:
        return list(threads.map(on_one, range(REPLICAS)))


def assert_right(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert outcome.is_right and not outcome.illegal and not outcome.errors, outcome


def test_episodes_in_lock_step_score_right(desks: RunningPool) -> None:
    for _ in range(2):
        assert_right(play_on_all(desks))


def test_processes_are_bounded_by_the_pod(desks: RunningPool) -> None:
    lines = Path(f"/proc/{desks.server_process(desks.pool.pod(0))}/cgroup").read_text().splitlines()
    groups = {controllers: path.lstrip("/") for _, controllers, path in (line.split(":", 2) for line in lines)}
    # Version 1 has a tree for each controller, version 2 one for all, without a name.
    container = CGROUPS / "pids" / groups["pids"] if "pids" in groups else CGROUPS / groups[""]
    assert int((container.parent / "pids.max").read_text()) == POD_PIDS


def test_the_charts_own_test_plays_an_episode(desks: RunningPool) -> None:
    plane = desks.cluster.plane
    values = (f"--set=test.pool={desks.pool.name}", f"--set=test.namespace={TRAIN}")
    helm(plane, NAMESPACE, "upgrade", RELEASE, str(CHART), "--reuse-values", *values, *WAIT)
    assert "Succeeded" in helm(plane, NAMESPACE, "test", RELEASE)


def test_a_deleted_pod_is_answered_for_by_the_spare(desks: RunningPool) -> None:
    desks.wait_whole()
    pod = desks.pool.pod(2)
    uid = pod["metadata"]["uid"]
    desks.delete_at_once(pod)
    wait_until(lambda: desks.answering(2) not in (None, uid), SERVED_AGAIN_S, "env 2 by another pod")
    assert_right(play_on_all(desks))


def test_a_killed_env_server_is_answered_for_by_the_spare(desks: RunningPool) -> None:
    desks.wait_whole()
    pod = desks.pool.pod(1)
    uid = pod["metadata"]["uid"]
    desks.kill_server(pod)
    wait_until(lambda: desks.answering(1) not in (None, uid), SERVED_AGAIN_S, "env 1 by another pod")
    assert_right(play_on_all(desks))


@pytest.mark.parametrize("lose", [RunningPool.kill_server, RunningPool.delete_at_once])
def test_a_step_that_loses_its_pod_is_carried_out_once_elsewhere(
    desks: RunningPool, lose: Callable[[RunningPool, dict[str, Any]], None]
) -> None:
    desks.wait_whole()
    first, lost, *rest = SAYS.predictions
    with EnvClient(f"{desks.url()}/envs/0", token=desks.token) as client, ThreadPoolExecutor(1) as thread:
        client.reset({**SAYS.task, "offline": True})  # a pod's desktop has a network
        client.step(first)
        pod = desks.pool.pod(0)
        reply = thread.submit(client.step, lost)
        time.sleep(1)  # it types for over two seconds, and nothing tells of its middle
        lose(desks, pod)
        assert reply.result().fault is None
        for prediction in rest:
            client.step(prediction)
        assert client.evaluate() == SAYS.score
        assert desks.pool.pod(0)["metadata"]["uid"] != pod["metadata"]["uid"]


@pytest.mark.timeout(1200)  # two of its waits may take a whole pool's start each
def test_a_node_that_loses_its_power_takes_no_env_with_it(desks: RunningPool) -> None:
    """The node of the operator that leads: the one that stands by on the other node moves what was there.

    Once it is back, operators and routers are apart again, and so is the spare: the next loss is as bearable.
    """
    desks.pool.apply(**{**SPEC, "spares": 2})  # with one alone a loss may take it too
    lost = desks.node_to_lose(with_operator=True)
    gone = desks.envs_on(lost)
    spares = {uid for uid, node in desks.spares().items() if node != lost.name}
    try:
        took = desks.lose(lost, NODE_LOST_S)
        assert took[0] <= FIRST_SERVED_S, took
        served = desks.pool.served()
        assert spares & {served[env_idx]["metadata"]["uid"] for env_idx in gone}, "the spare serves one of them"
        assert_right(play_on_all(desks))
    finally:
        lost.start()  # the tests after this one want both
    desks.cluster.wait_ready()
    desks.wait_apart()
    assert lost.name in desks.spares().values()
    assert_right(play_on_all(desks))


def test_both_operators_run_where_one_node_alone_takes_them(desks: RunningPool) -> None:
    plane, [name, _] = desks.cluster.plane, sorted(desks.cluster.nodes)
    chosen = f"--set=operator.nodeSelector.kubernetes\\.io/hostname={name}"
    helm(plane, NAMESPACE, "upgrade", RELEASE, str(CHART), "--reuse-values", chosen, *WAIT)
    wait_until(lambda: desks.nodes_with(NAMESPACE, "operator") == {name}, SERVED_AGAIN_S, "all on one")
    helm(plane, NAMESPACE, "rollback", RELEASE, *WAIT)
    desks.wait_apart()


def test_episodes_that_span_an_outage_of_the_api_server_are_not_disturbed(desks: RunningPool) -> None:
    """Longer than the nodes' grace: those that could not renew their leases are not taken for lost afterwards.

    The controllers go with it, as in deploy/ec2, where k3s has both in one process; elsewhere they end 10 s later, with
    their lease. Ours have none to lose, and would call nodes lost by what they saw before.
    """
    desks.wait_apart()
    plane = desks.cluster.plane
    uids = {env_idx: pod["metadata"]["uid"] for env_idx, pod in desks.pool.served().items()}
    before, during, after, last = SAYS.predictions
    with ExitStack() as stack:
        urls = [f"{desks.url()}/envs/{env_idx}" for env_idx in range(REPLICAS)]
        clients = [stack.enter_context(EnvClient(url, token=desks.token)) for url in urls]
        threads = stack.enter_context(ThreadPoolExecutor(REPLICAS))

        def say(prediction: str) -> None:
            replies = threads.map(lambda each: each.step(prediction), clients)
            assert not [reply.fault for reply in replies if reply.fault is not None]

        list(threads.map(lambda each: each.reset(SAYS.task), clients))
        say(before)
        for part in ("kube-controller-manager", "kube-apiserver"):
            plane.stop(part, signal.SIGKILL)
        back_at = time.monotonic() + OUTAGE_S
        try:
            say(during)
            time.sleep(max(back_at - time.monotonic(), 0))  # the length of the outage is the test's subject
        finally:
            plane.start_api_server()
            plane.start_controllers()
        say(after)
        assert [client.evaluate() for client in clients[::2]] == [SAYS.score] * len(clients[::2])
        desks.cluster.wait_ready()
        time.sleep(JUDGED_S)  # nothing tells that nothing will happen
        for client in clients[1::2]:
            client.step(last)
        assert [client.evaluate() for client in clients[1::2]] == [SAYS.score] * len(clients[1::2])
    assert {env_idx: pod["metadata"]["uid"] for env_idx, pod in desks.pool.served().items()} == uids
    desks.wait_whole()
    assert_right(play_on_all(desks))
