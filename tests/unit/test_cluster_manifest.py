"""A pool from options and files: what is sent, and how each mistake is named."""

from pathlib import Path
from typing import Any

import pytest

from osworld_env.cluster.create import read_manifest
from osworld_env.cluster.manifest import API, make_manifest
from osworld_env.errors import BadUsageError

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "pools").glob("*.yaml"))
XVFB = {"desktop.provider": "xvfb"}


def manifest(given: dict[str, Any], **options: Any) -> dict[str, Any]:
    return make_manifest(None, "lab", given, {key.replace("__", "."): value for key, value in options.items()})


def refused(name: str | None, given: dict[str, Any], options: dict[str, Any]) -> str:
    with pytest.raises(BadUsageError) as error:
        make_manifest(name, "lab", given, options)
    return "\n".join((error.value.message, *error.value.details))


def test_options_alone_make_a_pool_and_leave_defaults_to_the_definition() -> None:
    found = make_manifest("desks", "lab", {}, {**XVFB, "replicas": 4, "desktop.cpus": None})
    assert found == {
        "apiVersion": API,
        "kind": "OSWorldEnv",
        "metadata": {"name": "desks", "namespace": "lab"},
        "spec": {"replicas": 4, "desktop": {"provider": "xvfb"}},
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_pool(path: Path) -> None:
    given = read_manifest(path)
    assert manifest(given)["spec"] == given["spec"]


def test_options_go_before_the_file_and_leave_it_alone() -> None:
    given = read_manifest(next(path for path in EXAMPLES if path.stem == "qemu-kvm"))
    found = manifest(given, replicas=8, desktop__image__sha256="1" * 64)
    assert (found["spec"]["replicas"], found["spec"]["desktop"]["image"]["sha256"]) == (8, "1" * 64)
    assert (given["spec"]["replicas"], given["spec"]["desktop"]["image"]["sha256"]) == (64, "0" * 64)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"desktop.provider": "qemu"}, "spec.desktop.image: provider qemu needs an image: set desktop.image.url"),
        ({**XVFB, "desktop.memory": "4 GB"}, "spec.desktop.memory: '4 GB' is not a quantity such as 4Gi or 500m"),
        ({**XVFB, "desktop.cpus": 0}, "spec.desktop.cpus: Input should be greater than or equal to 1 (got 0)"),
        ({**XVFB, "router.service.type": "nodeport"}, "spec.router.service.type: Input should be 'ClusterIP'"),
        ({}, "spec.desktop: Field required"),
    ],
)
def test_each_wrong_field_is_named_with_what_it_accepts(options: dict[str, Any], said: str) -> None:
    assert said in refused("desks", {}, options)


def test_a_name_that_no_service_can_have_is_refused() -> None:
    assert "metadata.name" in refused("Desks", {}, XVFB)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"apiVersion": "v1", "kind": "Pod"}, "it says apiVersion v1, kind Pod"),
        ({"apiVersion": API, "kind": "OSWorldEnv", "spce": {}}, "the file has what no OSWorldEnv has: spce"),
        ({"apiVersion": API, "kind": "OSWorldEnv", "spec": []}, "the pool has no name"),
        ({"apiVersion": API, "kind": "OSWorldEnv", "spec": "x"}, "spec of the file is no mapping"),
        ({"apiVersion": API, "kind": "OSWorldEnv", "spec": {"desktop": 1}}, "desktop of the file is no mapping"),
    ],
)
def test_a_file_of_another_form_is_refused(given: dict[str, Any], said: str) -> None:
    assert said in refused(None, given, XVFB)


def test_a_file_with_two_documents_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    path.write_text("a: 1\n---\nb: 2\n")
    with pytest.raises(BadUsageError, match="holds 2 documents"):
        read_manifest(path)
    path.write_text("a: [")
    with pytest.raises(BadUsageError, match="is no YAML"):
        read_manifest(path)
