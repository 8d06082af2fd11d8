"""Two operators at one API server: one of them writes."""

import os
import re
import signal
from collections.abc import Iterator

import pytest

from cluster.control_plane import ControlPlane
from cluster.env_servers import played_env_servers
from cluster.move_wishes import ask, holder, token
from cluster.operator_rig import CONVERGE_S, Operator, Pool, operator, watched
from osworld_operator.lease import LEASE_S
from waiting import wait_until

AT_ONCE_S = 8.0
"""A lease that was released is free; one that was not lasts longer than this."""


def writes(running: Operator) -> int:
    """Return how many changes of pods an operator has made or tried."""
    found = re.findall(r"^osworld_operator_actions_total{.*} (\S+)$", running.metrics(), re.MULTILINE)
    return int(sum(map(float, found)))


def leads(running: Operator) -> int:
    """Return what an operator's metric says of whether it leads."""
    [found] = re.findall(r"^osworld_operator_leader (\S+)$", running.metrics(), re.MULTILINE)
    return int(float(found))


@pytest.fixture
def operators(plane: ControlPlane) -> Iterator[tuple[Operator, Operator]]:
    """One that has the lease, and one that came later."""
    with played_env_servers(plane), operator(plane, OSWORLD_OPERATOR_NAME="first") as first:
        wait_until(first.is_writer, LEASE_S + CONVERGE_S, "the first has the lease")
        with operator(plane, OSWORLD_OPERATOR_NAME="second") as second:
            wait_until(lambda: "first has it" in second.log.read_text(), CONVERGE_S, "the second is turned away")
            yield first, second


def test_of_two_operators_one_writes_and_the_other_follows_when_it_freezes(
    plane: ControlPlane, namespace: str, operators: tuple[Operator, Operator]
) -> None:
    first, second = operators
    assert second.is_alive() and second.is_standby()
    pool = Pool(plane, namespace)
    with watched(plane, pool) as seen:
        pool.apply(replicas=2, spares=1)
        pool.wait_whole(2, 1)
        assert writes(second) == 0 and "osworld_operator_reconcile_seconds_count" not in second.metrics()
        assert (leads(first), leads(second)) == (1, 0)
        os.kill(first.pid, signal.SIGSTOP)
        try:
            lost = pool.pod(0)["metadata"]["name"]
            plane.kubectl("delete", "pod", "-n", namespace, lost, "--force", "--grace-period=0")
            wait_until(second.is_writer, LEASE_S + CONVERGE_S, "the second has the lease")
            pool.wait_whole(2, 1)
        finally:
            os.kill(first.pid, signal.SIGCONT)
        wait_until(lambda: "second has it" in first.log.read_text(), CONVERGE_S, "the first has noticed")
        assert second.is_writer() and first.is_standby() and (leads(first), leads(second)) == (0, 1)
        before = writes(first)
        pool.scale(3)
        pool.wait_whole(3, 1)
        assert writes(first) == before, "the one that woke up follows"
        assert "osworld_pool_envs{" not in first.metrics() and "osworld_pool_envs{" in second.metrics()
    assert not seen.double
    assert len(seen.created) == len(set(seen.created)) + 1, "the lost pod's name, and no other, was used twice"


def test_an_operator_that_is_stopped_leaves_at_once(operators: tuple[Operator, Operator]) -> None:
    first, second = operators
    assert first.stop() == 0
    wait_until(second.is_writer, AT_ONCE_S, "the second has the lease")


def test_a_killed_leader_is_followed_without_its_word(
    plane: ControlPlane, namespace: str, operators: tuple[Operator, Operator]
) -> None:
    first, second = operators
    pool = Pool(plane, namespace)
    with watched(plane, pool) as seen:
        pool.apply(replicas=2, spares=1)
        pool.wait_whole(2, 1)
        first.kill()
        lost = pool.pod(0)["metadata"]["name"]
        plane.kubectl("delete", "pod", "-n", namespace, lost, "--force", "--grace-period=0")
        wait_until(second.is_writer, LEASE_S + CONVERGE_S, "the second has the lease")
        pool.wait_whole(2, 1)
    assert not seen.double


def test_a_standby_passes_a_routers_wish_on_to_the_leader(
    plane: ControlPlane, namespace: str, operators: tuple[Operator, Operator]
) -> None:
    first, second = operators
    pool = Pool(plane, namespace)
    pool.apply(replicas=1, spares=1)
    pool.wait_whole(1, 1)
    wish, bearer = holder(pool), token(pool)
    assert ask(second, pool, "nobody", wish).status_code == 401, "the leader says who is heard"
    reply = ask(second, pool, bearer, wish)
    assert reply.status_code == 200 and reply.json()["uid"] == pool.pod(0)["metadata"]["uid"] != wish["from_uid"]
    assert writes(second) == 0
    os.kill(first.pid, signal.SIGSTOP)
    try:
        wait_until(second.is_writer, LEASE_S + CONVERGE_S, "the second has the lease")
        pool.wait_whole(1, 1)
        assert ask(second, pool, bearer, holder(pool)).status_code == 200
    finally:
        os.kill(first.pid, signal.SIGCONT)
