"""Models of the API → the structural schema of its CustomResourceDefinition. Pure.

What pydantic says in JSON Schema and the API server does not take is rewritten: references, ``null``, ``const``, and
``additionalProperties: false`` (the API server prunes what it does not know, or refuses it where its client asks for
strict validation, as kubectl does).
"""

import inspect
from collections.abc import Mapping
from typing import Any, Final, get_args

from osworld_contract.crd import CrdModel, Rule

_KEPT: Final[tuple[str, ...]] = (
    "description", "type", "enum", "pattern", "format", "minimum", "maximum", "minLength", "maxLength", "minItems",
    "maxItems", "maxProperties", "default", "required", "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
)  # fmt: skip
_REWRITTEN: Final = frozenset(
    {"$defs", "$ref", "anyOf", "const", "properties", "items", "additionalProperties", "title"}
)
_NO_DEFAULT: Final[tuple[Any, ...]] = (None, [], {})
"""Defaults that say no more than that the field is missing."""


def structural_schema(model: type[CrdModel]) -> dict[str, Any]:
    """Return the schema of `model`.

    Raises:
        ValueError: The model uses what no structural schema can say.
    """
    whole = model.model_json_schema(by_alias=True)
    return _Rewriter(whole.get("$defs", {}), _models_below(model)).rewrite(whole)


def _models_below(root: type[CrdModel]) -> dict[str, type[CrdModel]]:
    """Return `root` and all models that it is made of, by name."""
    found: dict[str, type[CrdModel]] = {}
    waiting: list[Any] = [root]
    while waiting:
        kind = waiting.pop()
        if inspect.isclass(kind) and issubclass(kind, CrdModel):
            if found.setdefault(kind.__name__, kind) is not kind:
                raise ValueError(f"two models are named {kind.__name__}")
            waiting += [field.annotation for field in kind.model_fields.values()]
        else:
            waiting += get_args(kind)
    return found


class _Rewriter:
    """Rewrites JSON Schema of pydantic's."""

    def __init__(self, defs: Mapping[str, dict[str, Any]], models: Mapping[str, type[CrdModel]]) -> None:
        self._defs = defs
        self._models = models

    def rewrite(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return `given` and all below it as a structural schema."""
        node = self._resolved(given)
        if unknown := set(node) - set(_KEPT) - _REWRITTEN:
            raise ValueError(f"a structural schema cannot say {sorted(unknown)}: {given}")
        done: dict[str, Any] = {key: node[key] for key in _KEPT if key in node}
        if "description" in done:
            done["description"] = " ".join(done["description"].split())
        if done.get("default") in _NO_DEFAULT:
            done.pop("default", None)
        if "const" in node:
            done["enum"] = [node["const"]]
        if "properties" in node:
            done["properties"] = {name: self._field(child) for name, child in node["properties"].items()}
            done |= _validations(self._models[node["title"]].rules)
        elif isinstance(node.get("additionalProperties"), dict):
            done["additionalProperties"] = self.rewrite(node["additionalProperties"])
        if "items" in node:
            done["items"] = self.rewrite(node["items"])
        return done

    def _field(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return a field. An object whose fields all have defaults is made by the API server where it is missing."""
        done = self.rewrite(given)
        is_optional = "anyOf" in given
        if "properties" in done and not is_optional and not done.get("required"):
            # Whole, not {}: the API server checks a default against the rules before it fills in those of its fields.
            children = done["properties"].items()
            done["default"] = {name: child["default"] for name, child in children if "default" in child}
        return done

    def _resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        """Return `node` without a reference and without ``null``; what it says itself wins."""
        if "anyOf" in node:
            kinds = [kind for kind in node["anyOf"] if kind != {"type": "null"}]
            if len(kinds) != 1:
                raise ValueError(f"a structural schema has one type for a field: {node}")
            node = {**kinds[0], **{key: value for key, value in node.items() if key not in ("anyOf", "title")}}
        if "$ref" in node:
            return {**self._defs[node["$ref"].rpartition("/")[2]], **node}
        return node


def _validations(rules: tuple[Rule, ...]) -> dict[str, Any]:
    if not rules:
        return {}
    return {"x-kubernetes-validations": [_validation(rule) for rule in rules]}


def _validation(rule: Rule) -> dict[str, str]:
    return {"rule": rule.cel, "message": rule.message} | ({"fieldPath": rule.field} if rule.field else {})
