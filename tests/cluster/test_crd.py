"""The definition at a real API server: what it refuses, what it fills in, and what an upgrade of it keeps."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.control_plane import ControlPlane
from pools import BAD_POOLS, BadPool, pool
from waiting import wait_until

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "pools").glob("*.yaml"))


def in_namespace(name: str, namespace: str) -> str:
    body = pool(name)
    body["metadata"]["namespace"] = namespace
    return json.dumps(body)


@pytest.mark.parametrize("bad", BAD_POOLS, ids=lambda bad: bad.why)
def test_a_bad_pool_is_refused_with_the_fields_name(plane: ControlPlane, bad: BadPool) -> None:
    said = plane.kubectl(
        "create", "--dry-run=server", "-n", "default", "-f", "-", text=json.dumps(bad.body), is_fine=False
    )
    assert bad.field.rpartition(".")[2] in said
    assert "created" not in said


def test_there_are_twenty_bad_pools() -> None:
    assert len(BAD_POOLS) >= 20


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_taken(plane: ControlPlane, example: Path) -> None:
    assert "created (server dry run)" in plane.kubectl(
        "create", "--dry-run=server", "-n", "default", "-f", str(example)
    )


def test_defaults_are_filled_in(plane: ControlPlane, namespace: str) -> None:
    plane.kubectl("create", "-n", namespace, "-f", "-", text=in_namespace("plain", namespace))
    spec = plane.get(f"/apis/osworld.dev/v1alpha1/namespaces/{namespace}/osworldenvs/plain")["spec"]
    assert (spec["replicas"], spec["spares"], spec["episode"]["resetTimeout"]) == (1, 1, "360s")
    assert spec["update"] == {"strategy": "WhenIdle", "maxUnavailable": "10%"}


def test_the_provider_of_a_pool_does_not_change(plane: ControlPlane, namespace: str) -> None:
    plane.kubectl("create", "-n", namespace, "-f", "-", text=in_namespace("fixed", namespace))
    image = {"url": "https://images.example.com/desk.qcow2"}
    change = json.dumps({"spec": {"desktop": {"provider": "qemu", "image": image}}})
    said = plane.kubectl("patch", "-n", namespace, "owe/fixed", "--type=merge", "-p", change, is_fine=False)
    assert "provider" in said


def test_an_upgrade_of_the_definition_keeps_pools(plane: ControlPlane, namespace: str) -> None:
    """An older definition that lacks a field, then ours: the pool is there, and has the field's default."""
    ours = yaml.safe_load(Path("crds", "osworldenvs.osworld.dev.yaml").read_text())
    older: dict[str, Any] = json.loads(json.dumps(ours))
    properties = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    del properties["update"]
    try:
        plane.kubectl("apply", "-f", "-", text=json.dumps(older))
        plane.kubectl("create", "-n", namespace, "-f", "-", text=in_namespace("old", namespace))
    finally:
        plane.kubectl("apply", "-f", "-", text=json.dumps(ours))
    path = f"/apis/osworld.dev/v1alpha1/namespaces/{namespace}/osworldenvs/old"
    # The API server takes a definition over a moment after it has accepted it.
    wait_until(lambda: plane.get(path)["spec"].get("update", {}).get("strategy") == "WhenIdle", 30, "the default")
