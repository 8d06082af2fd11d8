"""The definition in ``crds/`` against the models: one source, and a schema that an API server takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from osworld_contract.crd import CrdModel, OSWorldEnvSpec, OSWorldEnvStatus
from osworld_contract.kube_names import CRD_NAME
from osworld_operator.crd import DEFINITIONS, definition_text
from osworld_operator.crd_manifest import crd_manifest
from osworld_operator.crd_schema import structural_schema
from pools import QEMU, pool

ROOT = Path(__file__).parents[2]


def version() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / DEFINITIONS[0]).read_text())["spec"]["versions"][0]
    return found


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for part in ("items", "additionalProperties"):
        if part in schema:
            yield from nodes(schema[part], f"{path}[]")


def test_the_file_is_what_make_crd_writes() -> None:
    for path in DEFINITIONS:
        assert (ROOT / path).read_text() == definition_text(), "run `make crd`"


def test_the_definition_has_its_names_and_subresources() -> None:
    manifest = crd_manifest()
    assert manifest["metadata"]["name"] == CRD_NAME == "osworldenvs.osworld.dev"
    assert manifest["spec"]["names"]["shortNames"] == ["owe"]
    assert version()["subresources"]["scale"] == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }


@pytest.mark.parametrize("model", [OSWorldEnvSpec, OSWorldEnvStatus])
def test_everything_is_bounded(model: type[CrdModel]) -> None:
    for path, node in nodes(structural_schema(model)):
        is_opaque = node.get("x-kubernetes-preserve-unknown-fields", False)
        if node.get("x-kubernetes-int-or-string"):
            assert "pattern" in node and "minimum" in node, path
        elif node["type"] == "string":
            assert "maxLength" in node or "enum" in node, path
        elif node["type"] == "integer":
            assert "minimum" in node, path
        elif node["type"] == "array":
            assert "maxItems" in node, path
        elif node["type"] == "object" and not is_opaque:
            assert "properties" in node or "maxProperties" in node, path
            assert not ("properties" in node and "additionalProperties" in node), path


def test_every_field_of_the_spec_is_explained() -> None:
    for path, node in nodes(structural_schema(OSWorldEnvSpec)):
        if path.count(".") in (1, 2) and "[]" not in path:
            assert node.get("description"), f"{path} says nothing in `kubectl explain`"


def defaulted(schema: dict[str, Any], given: Any) -> Any:
    """Fill defaults in as the API server does: a default counts where its parent is there."""
    if not isinstance(given, dict) or "properties" not in schema:
        return given
    done = dict(given)
    for name, child in schema["properties"].items():
        if name not in done and "default" in child:
            done[name] = child["default"]
        if name in done:
            done[name] = defaulted(child, done[name])
    return done


@pytest.mark.parametrize("desktop", [{"provider": "xvfb"}, QEMU])
def test_the_api_servers_defaults_are_those_of_the_models(desktop: dict[str, Any]) -> None:
    given = pool(desktop=desktop)["spec"]
    filled = defaulted(structural_schema(OSWorldEnvSpec), given)
    assert OSWorldEnvSpec.model_validate(filled) == OSWorldEnvSpec.model_validate(given)
    expected = OSWorldEnvSpec.model_validate(given).model_dump(by_alias=True, exclude_none=True, mode="json")
    assert without_empty(filled) == without_empty(expected)


def test_a_default_of_an_object_is_whole() -> None:
    """The API server checks it against the rules before it fills in the defaults of its fields, and refuses `{}`."""
    for path, node in nodes(structural_schema(OSWorldEnvSpec)):
        if "properties" in node and "default" in node:
            assert node["default"] == defaulted(node, {}), path


def without_empty(node: Any) -> Any:
    """Drop what says no more than that it is missing: ``{}`` and ``[]``."""
    if not isinstance(node, dict):
        return node
    pruned = {name: without_empty(child) for name, child in node.items()}
    return {name: child for name, child in pruned.items() if child not in ({}, [], ())}


def test_rules_name_a_field_that_is_there_and_say_what_is_accepted() -> None:
    seen = 0
    for path, node in nodes(structural_schema(OSWorldEnvSpec)):
        for rule in node.get("x-kubernetes-validations", ()):
            seen += 1
            target = node
            for part in rule.get("fieldPath", "").split(".")[1:]:
                assert part in target["properties"], f"{path}{rule['fieldPath']} is not there"
                target = target["properties"][part]
            assert rule["message"]
    assert seen >= 15


def test_a_model_that_no_schema_can_say_is_refused() -> None:
    class Either(CrdModel):
        field: int | str

    with pytest.raises(ValueError, match="one type"):
        structural_schema(Either)
