"""From a file and options to an OSWorldEnv, checked by the contract's models before the API server sees it. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from osworld_contract.crd import OSWorldEnv
from osworld_contract.kube_names import API_GROUP, API_VERSION, KIND
from osworld_env.errors import BadUsageError

API: Final = f"{API_GROUP}/{API_VERSION}"
_TOP_LEVEL: Final = frozenset({"apiVersion", "kind", "metadata", "spec"})


def make_manifest(
    name: str | None, namespace: str, given: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the manifest of a pool.

    Args:
        name: Its name; None takes that of `given`.
        namespace: Where it goes.
        given: A manifest as it was read from a file; empty where there is no file.
        options: Values over those of `given`, by path in the spec, such as ``desktop.cpus``; None is not given.

    Raises:
        BadUsageError: It is none; each field that is wrong is named, with what it accepts.
    """
    _ensure_is_ours(given)
    head = given.get("metadata") or {}
    spec = _copied(given.get("spec") or {})
    for path, value in options.items():
        if value is not None:
            _put(spec, path.split("."), value)
    chosen = name or head.get("name")
    if not chosen:
        raise BadUsageError("the pool has no name: give NAME, or metadata.name in the file")
    manifest = {
        "apiVersion": API,
        "kind": KIND,
        "metadata": {**head, "name": chosen, "namespace": namespace},
        "spec": spec,
    }
    try:
        OSWorldEnv.model_validate(manifest)
    except ValidationError as error:
        raise BadUsageError(f"{chosen} is no valid pool", tuple(_lines(error))) from error
    return manifest


def _ensure_is_ours(given: Mapping[str, Any]) -> None:
    if not given:
        return
    if (kind := (given.get("apiVersion"), given.get("kind"))) != (API, KIND):
        raise BadUsageError(f"the file is no {KIND} of {API}: it says apiVersion {kind[0]}, kind {kind[1]}")
    if unknown := sorted(set(given) - _TOP_LEVEL):
        raise BadUsageError(f"the file has what no {KIND} has: {', '.join(unknown)}")
    for key in ("metadata", "spec"):
        if not isinstance(given.get(key) or {}, dict):
            raise BadUsageError(f"{key} of the file is no mapping")


def _copied(value: Any) -> Any:
    """Return a copy that can be changed, deep."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _put(target: dict[str, Any], path: list[str], value: Any) -> None:
    *parents, last = path
    for key in parents:
        below = target.setdefault(key, {})
        if not isinstance(below, dict):
            raise BadUsageError(f"spec.{'.'.join(path)} has no place: {key} of the file is no mapping")
        target = below
    target[last] = value


def _lines(error: ValidationError) -> list[str]:
    """Return one line for each wrong field: its path as one writes it, what is wrong, and what was given."""
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if message.startswith("."):  # a rule across fields names the field itself
            lines.append(f"{path}{message}")
            continue
        got = "" if item["type"] == "missing" else f" (got {item['input']!r:.80})"
        lines.append(f"{path}: {message}{got}")
    return lines
