"""The operator against a real API server, scheduler and controllers; KWOK plays nodes and pods."""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from cluster.env_servers import PlayedEnvServers, played_env_servers
from cluster.operator_rig import CONVERGE_S, Operator, Pool, operator, watched
from cluster.watching_router import watching_router
from osworld_contract.kube_names import COMPONENT_ROUTER, LABEL_COMPONENT, LABEL_REVISION
from osworld_contract.names import ENV_SERVER_PORT
from osworld_contract.wire import Phase
from osworld_operator.swaps import STILL_S
from waiting import wait_until

KILLS = 20

LOOKED_AT_S = 8


@pytest.fixture(scope="module")
def servers(plane: ControlPlane) -> Iterator[PlayedEnvServers]:
    with played_env_servers(plane) as running:
        yield running


@pytest.fixture(scope="module")
def running(plane: ControlPlane, servers: PlayedEnvServers) -> Iterator[Operator]:
    with operator(plane) as process:
        yield process


@pytest.fixture
def pool(plane: ControlPlane, namespace: str, running: Operator) -> Iterator[Pool]:
    found = Pool(plane, namespace)
    yield found
    plane.kubectl("delete", "owe", "--all", "-n", namespace, "--wait=false")


def revisions(pool: Pool) -> set[str]:
    return {pod["metadata"]["labels"][LABEL_REVISION] for pod in pool.pods()}


def test_a_pool_comes_up_with_its_numbers_spares_and_router(pool: Pool) -> None:
    pool.apply(replicas=4, spares=1)
    pool.wait_whole(4, 1)
    assert pool.condition("Ready") == ("True", "AllReady")
    assert pool.condition("Degraded") == ("False", "AsExpected")
    assert sorted(pod["metadata"]["name"] for pod in pool.pods()) == [f"desks-{slot}" for slot in range(5)]
    assert len(set(pool.epochs().values())) == 4
    status = pool.status
    assert status["lastEpoch"] == max(pool.epochs().values())
    assert status["url"] == f"http://desks-router.{pool.namespace}.svc:15001"
    for kind, name in (
        ("deployment", "desks-router"), ("service", "desks-router"), ("secret", "desks-tokens"),
        ("networkpolicy", "desks-env"), ("networkpolicy", "desks-router"), ("pdb", "desks-router"),
    ):  # fmt: skip
        assert name in pool.plane.kubectl("get", kind, "-n", pool.namespace, "-o", "name")


def test_a_pod_that_is_gone_is_replaced_by_the_spare(pool: Pool) -> None:
    pool.apply(replicas=3, spares=1)
    pool.wait_whole(3, 1)
    before, epoch = pool.served()[2], pool.epochs()[2]
    name = before["metadata"]["name"]
    pool.plane.kubectl("delete", "pod", "-n", pool.namespace, name, "--force", "--grace-period=0")
    wait_until(lambda: 2 in pool.served() and pool.epochs()[2] > epoch, CONVERGE_S, "env 2 at the spare")
    assert pool.served()[2]["metadata"]["uid"] != before["metadata"]["uid"]
    pool.wait_whole(3, 1)


def test_scaling_down_waits_for_the_episode_of_the_highest_number(pool: Pool, servers: PlayedEnvServers) -> None:
    pool.apply(replicas=4, spares=0)
    pool.wait_whole(4, 0)
    busy = pool.pod(3)
    servers.set_phase(busy, Phase.RUNNING)
    pool.scale(2)
    wait_until(lambda: sorted(pool.served()) == [0, 1, 3], CONVERGE_S, "env 2 gone, env 3 in its episode")
    assert not servers.is_drained(busy)
    servers.set_phase(busy, Phase.EVALUATED)
    pool.wait_whole(2, 0)
    assert servers.is_drained(busy)


def test_an_update_ends_no_episode(pool: Pool, servers: PlayedEnvServers) -> None:
    pool.apply(replicas=3, spares=1)
    pool.wait_whole(3, 1)
    old = revisions(pool)
    busy = pool.pod(1)
    uid = busy["metadata"]["uid"]
    servers.set_phase(busy, Phase.RUNNING)
    pool.apply(replicas=3, spares=1, podTemplate={"labels": {"team": "blue"}})
    wait_until(lambda: _outdated(pool, old) == [uid], CONVERGE_S, "all but the busy pod are of the new spec")
    wait_until(lambda: pool.condition("Progressing") == ("True", "Updating"), CONVERGE_S, "only the update is left")
    servers.set_phase(busy, Phase.EVALUATED)
    wait_until(lambda: not _outdated(pool, old), CONVERGE_S, "the busy pod is updated after its episode")
    pool.wait_whole(3, 1)


def _outdated(pool: Pool, old: set[str]) -> list[str]:
    found = pool.pods()
    if len(found) != 4:
        return ["in between"]
    return [pod["metadata"]["uid"] for pod in found if pod["metadata"]["labels"][LABEL_REVISION] in old]


def test_an_update_comes_where_a_quota_leaves_no_room_for_the_spare(pool: Pool) -> None:
    pool.apply(replicas=1, spares=0, router={"replicas": 1})
    pool.wait_whole(1, 0)
    wait_until(lambda: len(_routers(pool)) == 1, CONVERGE_S, "the router's pod")
    old = revisions(pool)
    pool.plane.kubectl("create", "quota", "full", "-n", pool.namespace, "--hard=count/pods=2")
    spec = {"replicas": 1, "spares": 1, "router": {"replicas": 1}}
    pool.apply(**spec)
    wait_until(lambda: pool.condition("Degraded") == ("True", "PodRefused"), CONVERGE_S, "no room for the spare")
    pool.apply(**spec, podTemplate={"labels": {"team": "blue"}})
    wait_until(lambda: pool.condition("Progressing") == ("True", "Updating"), CONVERGE_S, "an update")
    wait_until(lambda: not old & revisions(pool) and 0 in pool.served(), CONVERGE_S + STILL_S, "env 0 is updated")


def test_pods_leave_a_cordoned_node_after_their_episodes(pool: Pool, servers: PlayedEnvServers) -> None:
    pool.apply(replicas=4, spares=2)
    pool.wait_whole(4, 2)
    node = pool.served()[0]["spec"]["nodeName"]
    busy = pool.pod(0)
    servers.set_phase(busy, Phase.RUNNING)
    try:
        pool.plane.kubectl("cordon", node)
        wait_until(
            lambda: _on(pool, node) == [busy["metadata"]["uid"]], CONVERGE_S, "only the busy pod is still on the node"
        )
        servers.set_phase(busy, Phase.IDLE)
        wait_until(lambda: not _on(pool, node), CONVERGE_S, "the node is empty")
    finally:
        pool.plane.kubectl("uncordon", node)
    pool.wait_whole(4, 2)


def test_two_routers_run_where_one_node_alone_is_open_to_them(pool: Pool) -> None:
    pool.plane.kubectl("taint", "node", "n1", "gpu=yes:NoSchedule")
    try:
        pool.apply(replicas=1, spares=0, router={"replicas": 2})
        pool.wait_whole(1, 0)
        wait_until(lambda: _routers(pool) == ["n0", "n0"], CONVERGE_S, "both routers on the node that is open to them")
    finally:
        pool.plane.kubectl("taint", "node", "n1", "gpu-")


def _routers(pool: Pool) -> list[str]:
    shown = pool.plane.kubectl(
        "get", "pods", "-n", pool.namespace, "-l", f"{LABEL_COMPONENT}={COMPONENT_ROUTER}",
        "-o", "jsonpath={.items[*].spec.nodeName}",
    )  # fmt: skip
    return shown.split()


def _on(pool: Pool, node: str) -> list[str]:
    return [pod["metadata"]["uid"] for pod in pool.pods() if pod["spec"].get("nodeName") == node]


@pytest.mark.parametrize(
    ("desktop", "reason"),
    [
        ({"provider": "qemu", "accelerator": "kvm", "image": {"url": "https://e.example.com/a.qcow2"}}, "NoKVMDevice"),
        ({"provider": "xvfb", "cpus": 1, "memory": "64Gi"}, "InsufficientMemory"),
    ],
)
def test_pods_that_fit_nowhere_are_named_and_not_churned(pool: Pool, desktop: dict[str, Any], reason: str) -> None:
    amounts = {"memory": "9000Gi"}
    resources = {"requests": amounts, "limits": amounts} if reason == "InsufficientMemory" else {}
    pool.apply(replicas=2, spares=1, desktop=desktop, podTemplate={"resources": resources})
    wait_until(lambda: pool.condition("Degraded") == ("True", reason), CONVERGE_S, f"the condition {reason}")
    uids = {pod["metadata"]["uid"] for pod in pool.pods()}
    assert len(uids) == 3
    pool.scale(3)
    wait_until(lambda: len(pool.pods()) == 4, CONVERGE_S, "one more pod")
    assert uids < {pod["metadata"]["uid"] for pod in pool.pods()}
    assert pool.status["troubled"][0]["reason"] == reason


def test_the_operator_says_that_it_lives_and_what_it_did(pool: Pool, running: Operator) -> None:
    pool.apply(replicas=1, spares=0)
    pool.wait_whole(1, 0)
    assert running.is_alive()
    said = running.metrics()
    labels = f'namespace="{pool.namespace}",pool="desks"'
    assert f'osworld_pool_envs{{{labels},state="ready"}} 1.0' in said
    assert f'osworld_operator_reconcile_seconds_count{{{labels},result="ok"}}' in said


def test_a_quota_is_named(pool: Pool) -> None:
    pool.plane.kubectl("create", "quota", "few", "-n", pool.namespace, "--hard=count/pods=1")
    pool.apply(replicas=2, spares=0, router={"replicas": 1})
    wait_until(lambda: pool.condition("Degraded") == ("True", "PodRefused"), CONVERGE_S, "the condition PodRefused")
    assert "exceeded quota" in str(pool.status["conditions"])


def test_a_refused_pod_is_tried_again_calmly_until_the_quota_is_lifted(pool: Pool, running: Operator) -> None:
    pool.plane.kubectl("create", "quota", "tight", "-n", pool.namespace, "--hard=count/pods=2")
    pool.apply(replicas=3, spares=0)
    wait_until(lambda: pool.condition("Degraded") == ("True", "PodRefused"), CONVERGE_S, "the quota in a condition")
    assert_calm(running, pool)
    pool.plane.kubectl("delete", "quota", "tight", "-n", pool.namespace)
    pool.wait_whole(3, 0)
    assert pool.condition("Degraded") == ("False", "AsExpected")


def test_a_pool_that_is_scaled_down_into_its_quota_is_as_expected(pool: Pool) -> None:
    pool.plane.kubectl("create", "quota", "small", "-n", pool.namespace, "--hard=count/pods=4")
    pool.apply(replicas=5, spares=0, router={"replicas": 1})
    wait_until(lambda: pool.condition("Degraded") == ("True", "PodRefused"), CONVERGE_S, "the quota in a condition")
    pool.scale(2)
    wait_until(lambda: pool.condition("Degraded") == ("False", "AsExpected"), CONVERGE_S, "nothing is refused any more")


def assert_calm(running: Operator, pool: Pool) -> None:
    """Look for a while at how often the operator asks for what it cannot have: not in a loop."""
    before = rounds(running, pool)
    time.sleep(LOOKED_AT_S)  # what must not happen has no event
    assert rounds(running, pool) - before <= 2 * LOOKED_AT_S


def rounds(running: Operator, pool: Pool) -> float:
    """Return how many rounds the operator has made over a pool."""
    return sum(
        float(line.rpartition(" ")[2])
        for line in running.metrics().splitlines()
        if line.startswith("osworld_operator_reconcile_seconds_count") and f'"{pool.namespace}"' in line
    )


def test_a_deleted_pool_leaves_nothing_even_without_an_operator(pool: Pool, running: Operator) -> None:
    pool.apply(replicas=2, spares=0)
    pool.wait_whole(2, 0)
    running.kill()
    try:
        pool.plane.kubectl("delete", "owe", pool.name, "-n", pool.namespace, "--timeout=30s")
        kinds = "pods,deployments,services,secrets,networkpolicies,pdb,roles,rolebindings"
        wait_until(
            lambda: not pool.plane.kubectl("get", kinds, "-n", pool.namespace, "-o", "name").strip(),
            CONVERGE_S,
            "all children are collected",
        )
    finally:
        running.start()


def test_a_pool_that_is_applied_again_comes_up_beside_the_pods_that_are_still_busy(
    pool: Pool, running: Operator, tmp_path: Path
) -> None:
    pool.apply(replicas=2, spares=0)
    pool.wait_whole(2, 0)
    old = [pod["metadata"]["name"] for pod in pool.pods()]
    finalizers = json.dumps({"metadata": {"finalizers": ["example.com/episode"]}})  # holds them as preStop would
    for name in old:
        pool.plane.kubectl("patch", "pod", "-n", pool.namespace, name, "--type=merge", "-p", finalizers)
    pool.plane.kubectl("delete", "owe", pool.name, "-n", pool.namespace, "--timeout=30s")
    pool.apply(replicas=2, spares=0)
    try:
        wait_until(lambda: pool.condition("Ready") == ("True", "AllReady"), CONVERGE_S, "the pool beside its old pods")
        assert {pod["metadata"]["name"] for pod in pool.pods()} > set(old), "nobody took their names"
        served = pool.served()
        assert sorted(served) == [0, 1] and not {pod["metadata"]["name"] for pod in served.values()} & set(old)
        assert_calm(running, pool)
        with watching_router(pool.plane.kubeconfig, pool.namespace, tmp_path) as router:
            urls = {idx: f"http://{pod['status']['podIP']}:{ENV_SERVER_PORT}" for idx, pod in served.items()}
            wait_until(lambda: {i: url for i, (url, _) in router.envs().items()} == urls, CONVERGE_S, "the new pods")
    finally:
        none = json.dumps({"metadata": {"finalizers": None}})
        for name in old:
            pool.plane.kubectl("patch", "pod", "-n", pool.namespace, name, "--type=merge", "-p", none, is_fine=False)
    wait_until(lambda: len(pool.pods()) == 2, CONVERGE_S, "the old pods are gone")


@pytest.mark.timeout(400)
def test_an_operator_killed_at_random_neither_doubles_nor_loses_anything(pool: Pool, running: Operator) -> None:
    """Scale 4 → 8 → 2 with twenty kills: the end is exact, and at no moment had two pods one env_idx."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    with watched(pool.plane, pool) as seen:
        pool.apply(replicas=4, spares=1)
        for number in range(KILLS):
            if number == KILLS // 3:
                pool.scale(8)
            if number == 2 * KILLS // 3:
                wait_until(lambda: len(set(seen.created)) == 9, CONVERGE_S, "eight envs and the spare")
                pool.scale(2)
            time.sleep(chance.uniform(0.0, 2.5))  # the moment of the kill, which is the test's subject
            running.kill()
            running.start()
        pool.wait_whole(2, 1)
    assert not seen.double, f"seed {seed}"
    assert len(seen.created) == len(set(seen.created)) == 9, f"seed {seed}: {seen.created}"
