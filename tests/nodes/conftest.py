"""Fixtures of the nodes rung: one cluster of two real nodes for the session."""

import secrets
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from nodes.images import ready_store
from nodes.real_cluster import RealCluster, real_cluster

OUT = Path(__file__).parents[2] / "out" / "nodes"
"""Logs of the last run, and what was there when a test failed."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[RealCluster]:
    """Two real nodes that have all images; see ``out/nodes`` after a failure."""
    with real_cluster(OUT, ready_store()) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Save objects and events when a test has failed, before anything is taken down; the report shows some of them."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(cluster, RealCluster):
        report.sections.append(("pods and last events", cluster.save()))
    return report


@pytest.fixture
def namespace(cluster: RealCluster) -> Iterator[str]:
    """A namespace at the Pod Security level ``restricted``, for one test; every node has power at its start and end."""
    name = f"test-{secrets.token_hex(3)}"
    cluster.make_namespace(name)
    yield name
    for node in cluster.nodes.values():
        node.ensure_power()
    cluster.wait_ready()
    cluster.plane.kubectl("delete", "namespace", name, "--wait=false")
