"""Two operators at one API server: one of them writes."""

import os
import signal
from collections.abc import Iterator

import pytest

from cluster.control_plane import ControlPlane
from cluster.env_servers import played_env_servers
from cluster.operator_rig import CONVERGE_S, Operator, Pool, operator, watched
from osworld_operator.lease import LEASE_S
from waiting import wait_until

AT_ONCE_S = 8.0
"""A lease that was released is free; one that was not lasts longer than this."""


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
    assert second.is_alive() and not second.is_writer()
    pool = Pool(plane, namespace)
    with watched(plane, pool) as seen:
        pool.apply(replicas=2, spares=1)
        pool.wait_whole(2, 1)
        assert 'osworld_operator_actions_total{action="create"' not in second.metrics()
        os.kill(first.pid, signal.SIGSTOP)
        try:
            lost = pool.pod(0)["metadata"]["name"]
            plane.kubectl("delete", "pod", "-n", namespace, lost, "--force", "--grace-period=0")
            wait_until(second.is_writer, LEASE_S + CONVERGE_S, "the second has the lease")
            pool.wait_whole(2, 1)
        finally:
            os.kill(first.pid, signal.SIGCONT)
        wait_until(lambda: "second has it" in first.log.read_text(), CONVERGE_S, "the first has noticed")
        assert second.is_writer() and not first.is_writer()
        pool.scale(3)
        pool.wait_whole(3, 1)
    assert not seen.double
    assert len(seen.created) == len(set(seen.created)) + 1, "the lost pod's name, and no other, was used twice"


def test_an_operator_that_is_stopped_leaves_at_once(operators: tuple[Operator, Operator]) -> None:
    first, second = operators
    assert first.stop() == 0
    wait_until(second.is_writer, AT_ONCE_S, "the second has the lease")
