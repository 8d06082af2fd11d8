"""Stands in for the API server where a test needs an answer that a real one gives seldom: objects in a dict.

It knows what the operator's calls do, as far as rounds depend on it, and nothing else: no schema, no controllers.
"""

import base64
import copy
from collections.abc import Callable
from typing import Any

from osworld_operator.api import APPLY_PATCH
from osworld_operator.errors import ClusterError, ConflictError, NotFoundError

CREATED = "2027-01-15T08:00:00Z"

Refuse = Callable[[str, str], ClusterError | None]
"""Method and path to the error that a call gets, None where it goes through."""


class PlayedApi:
    """The objects by their paths, and the calls that came."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, str]] = []
        self.refuse: Refuse = lambda method, path: None
        self._version = 0

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Have an object, of a new uid where it has none."""
        found = copy.deepcopy(body)
        if given := found.pop("stringData", None):
            found["data"] = {key: base64.b64encode(value.encode()).decode() for key, value in given.items()}
        self._version += 1
        head = {"uid": f"uid-{self._version}", "creationTimestamp": CREATED, "name": path.rpartition("/")[2]}
        found["metadata"] = {**head, **found["metadata"], "resourceVersion": str(self._version)}
        self.objects[path] = found
        return found

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the objects of a kind, in the plural that paths have."""
        return [each for path, each in self.objects.items() if path.split("/")[-2] == kind]

    async def call(
        self, method: str, path: str, body: Any = None, query: Any = None, content_type: str = "application/json"
    ) -> Any:
        """Answer as `osworld_operator.api.Api` does."""
        self.calls.append((method, path))
        if error := self.refuse(method, path):
            raise error
        if method == "POST":
            return self._post(path, body)
        if method == "PATCH" and content_type == APPLY_PATCH:
            return self.put(path, body)
        path = path.removesuffix("/status")
        if method == "GET" and path not in self.objects and path.endswith(("/pods", "/nodes")):
            wanted = dict(each.split("=") for each in (query or {}).get("labelSelector", "").split(",") if each)
            items = [each for at, each in self.objects.items() if at.rpartition("/")[0] == path]
            found = [each for each in items if wanted.items() <= each["metadata"].get("labels", {}).items()]
            return {"items": copy.deepcopy(found)}
        if path not in self.objects:
            raise NotFoundError(f"{path} not found", 404)
        if method == "DELETE":
            return self.objects.pop(path)
        if method == "PATCH":
            self.put(path, _merged(self.objects[path], body))
        return copy.deepcopy(self.objects[path])

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        head = body["metadata"]
        if "generateName" in head:
            return self.put(f"{path}/{head['generateName']}{self._version}", body)
        path = f"{path}/{head['name']}"
        if path in self.objects:
            raise ConflictError(f"{path} already exists", 409)
        return self.put(path, body)


def _merged(before: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON merge patch laid over an object."""
    found = dict(before)
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict) and isinstance(found.get(key), dict):
            found[key] = _merged(found[key], value)
        else:
            found[key] = value
    return found
