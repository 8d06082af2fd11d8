"""Fixtures of the cluster rung: a real control plane for the session, with the definition and two nodes of KWOK's."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.control_plane import ControlPlane, control_plane
from cluster.programs import programs_dir

CHECKOUT = Path(__file__).parents[2]
OUT = CHECKOUT / "out" / "cluster"
NODES = ("n0", "n1")
ALLOCATABLE = {"cpu": "1000", "memory": "4000Gi", "pods": "2000"}


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane. Its logs stay in ``out/cluster`` when a test has failed."""
    folder = tmp_path_factory.mktemp("plane")
    with control_plane(programs_dir(), folder, kwok=True) as running:
        running.kubectl("apply", "-f", str(CHECKOUT / "crds"))
        running.kubectl("wait", "--for=condition=Established", "crd/osworldenvs.osworld.dev", "--timeout=30s")
        for name in NODES:
            running.kubectl("apply", "-f", "-", text=json.dumps(node(name)))
        running.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
        yield running
        if os.environ.get("PYTEST_FAILED"):
            shutil.rmtree(OUT, ignore_errors=True)
            shutil.copytree(folder, OUT, ignore=shutil.ignore_patterns("etcd"))


@pytest.hookimpl
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember for the session's fixture that something failed."""
    if report.failed:
        os.environ["PYTEST_FAILED"] = "1"


def node(name: str) -> dict[str, object]:
    """Return a node that KWOK plays."""
    status = {"allocatable": ALLOCATABLE, "capacity": ALLOCATABLE}
    head = {"name": name, "labels": {"kubernetes.io/hostname": name}}  # which a kubelet sets
    return {"apiVersion": "v1", "kind": "Node", "metadata": head, "status": status}


@pytest.fixture
def namespace(plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace at the Pod Security level ``restricted``, for one test."""
    words = "".join(char if char.isalnum() else "-" for char in request.node.name.lower())[:40].strip("-")
    name = f"{words}-{secrets.token_hex(2)}"
    head = {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    plane.kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": head}))
    plane.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=30s")
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")
