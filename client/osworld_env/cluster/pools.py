"""All that the command line asks and tells the API server about pools, and nothing else does."""

import base64
import json
import socket
import time
from collections.abc import Iterator
from typing import Any, Final

from pydantic import ValidationError

from osworld_contract.crd import OSWorldEnv
from osworld_contract.kube_names import (
    ANNOTATION_DRAIN,
    API_GROUP,
    API_VERSION,
    COMPONENT_ENV,
    COMPONENT_ROUTER,
    LABEL_COMPONENT,
    LABEL_ENV_EPOCH,
    LABEL_ENV_IDX,
    LABEL_POOL,
    PLURAL,
    SECRET_KEY_TOKEN,
    router_name,
    tokens_secret_name,
)
from osworld_contract.names import ROUTER_PORT
from osworld_env.cluster.api import MERGE_PATCH, ClusterApi
from osworld_env.errors import ClusterError, GoneError

_GROUP: Final = f"/apis/{API_GROUP}/{API_VERSION}"


class Pools:
    """The pools of one namespace. Every method may raise `ClusterError`."""

    def __init__(self, api: ClusterApi) -> None:
        self._api = api
        self.namespace = api.namespace

    def all(self, *, everywhere: bool = False) -> list[OSWorldEnv]:
        """Return the pools of the namespace, or of the cluster."""
        path = f"{_GROUP}/{PLURAL}" if everywhere else self._path()
        return [_parsed(item) for item in self._api.call("GET", path)["items"]]

    def one(self, name: str) -> OSWorldEnv:
        """Return a pool.

        Raises:
            GoneError: There is none of that name; its message names those that there are.
        """
        try:
            return _parsed(self._api.call("GET", self._path(name)))
        except GoneError as error:
            known = ", ".join(env.metadata.name for env in self.all()) or "none"
            raise GoneError(f"no pool {name!r} in namespace {self.namespace}; there: {known}") from error

    def create(self, manifest: dict[str, Any]) -> None:
        """Create a pool. A field that the cluster's definition does not know is refused, not dropped."""
        namespace = manifest["metadata"]["namespace"]
        path = f"{_GROUP}/namespaces/{namespace}/{PLURAL}"
        self._api.call("POST", path, manifest, {"fieldValidation": "Strict"})

    def scale(self, name: str, replicas: int) -> None:
        """Ask for `replicas` envs, as ``kubectl scale`` does."""
        body = {"spec": {"replicas": replicas}}
        self._api.call("PATCH", f"{self._path(name)}/scale", body, content_type=MERGE_PATCH)

    def delete(self, name: str) -> None:
        """Delete a pool; the cluster collects all that belongs to it."""
        self._api.call("DELETE", self._path(name), query={"propagationPolicy": "Background"})

    def env_pods(self, name: str) -> list[dict[str, Any]]:
        """Return the env pods of a pool."""
        return self._pods(name, COMPONENT_ENV)

    def send_away(self, pod: dict[str, Any]) -> None:
        """Ask the operator to let this very pod go after its episode."""
        head = pod["metadata"]
        body = {"metadata": {"uid": head["uid"], "annotations": {ANNOTATION_DRAIN: "true"}}}
        self._api.call("PATCH", f"{self._core}/pods/{head['name']}", body, content_type=MERGE_PATCH)

    def wait_gone(self, name: str, uids: set[str], timeout_s: float) -> set[str]:
        """Return those of the pods `uids` that are still there when `timeout_s` is over."""
        left = set(uids)
        for kind, pod in self._watched(f"{self._core}/pods", _selector(name, COMPONENT_ENV), timeout_s):
            if kind == "LIST":
                left &= {item["metadata"]["uid"] for item in pod["items"]}
            elif kind == "DELETED":
                left.discard(pod["metadata"]["uid"])
            if not left:
                break
        return left

    def wait_ready(self, name: str, timeout_s: float) -> OSWorldEnv:
        """Return a pool once its envs are ready, or as it is when `timeout_s` is over."""
        query = {"fieldSelector": f"metadata.name={name}"}
        for kind, found in self._watched(self._path(), query, timeout_s):
            items = found["items"] if kind == "LIST" else [found]
            if kind == "DELETED":
                raise GoneError(f"the pool {name} was deleted")
            if any(_parsed(item).is_ready for item in items):
                break
        return self.one(name)

    def holders(self, name: str, env_idx: int) -> list[dict[str, Any]]:
        """Return the pods that have an env_idx, the latest last: one, or for a moment none."""
        items = self._api.call("GET", f"{self._core}/pods", query=_holder_selector(name, env_idx))["items"]
        return sorted(items, key=lambda pod: int(pod["metadata"]["labels"].get(LABEL_ENV_EPOCH, 0)))

    def watch_holders(self, name: str, env_idx: int, timeout_s: float) -> Iterator[list[dict[str, Any]]]:
        """Yield the pods that have an env_idx, now and at each change, for `timeout_s`."""
        known: dict[str, dict[str, Any]] = {}
        for kind, found in self._watched(f"{self._core}/pods", _holder_selector(name, env_idx), timeout_s):
            if kind == "LIST":
                known = {pod["metadata"]["uid"]: pod for pod in found["items"]}
            elif kind == "DELETED":
                known.pop(found["metadata"]["uid"], None)
            else:
                known[found["metadata"]["uid"]] = found
            yield list(known.values())

    def log_lines(self, pod: str, container: str, since: str, *, follow: bool) -> Iterator[str]:
        """Yield the lines of a container's log, each with its time before it, not older than the time `since`.

        Raises:
            GoneError: There is no such pod.
        """
        query = {"container": container, "timestamps": "true"}
        query |= {"sinceTime": since} if since else {}
        query |= {"follow": "true"} if follow else {}
        return self._api.lines(f"{self._core}/pods/{pod}/log", query)

    def ready_router(self, name: str) -> str | None:
        """Return the name of a router's pod that is ready, or None."""
        pods = self._pods(name, COMPONENT_ROUTER)
        return next((pod["metadata"]["name"] for pod in pods if is_ready(pod)), None)

    def router_service(self, name: str) -> dict[str, Any]:
        """Return the router's Service."""
        service: dict[str, Any] = self._api.call("GET", f"{self._core}/services/{router_name(name)}")
        return service

    def token(self, env: OSWorldEnv) -> str:
        """Return what clients show to a pool's router.

        Raises:
            ClusterError: Its Secret has no such key.
        """
        ref = env.spec.router.auth.secret_ref
        name, key = (ref.name, ref.key) if ref else (tokens_secret_name(env.metadata.name), SECRET_KEY_TOKEN)
        data = self._api.call("GET", f"{self._core}/secrets/{name}").get("data") or {}
        if key not in data:
            raise ClusterError(f"the Secret {name} has no key {key!r}")
        return base64.b64decode(data[key]).decode()

    def nodes(self) -> list[dict[str, Any]]:
        """Return all nodes."""
        return list(self._api.call("GET", "/api/v1/nodes")["items"])

    def forward(self, router_pod: str) -> socket.socket:
        """Return a connection with a router."""
        return self._api.forward(router_pod, ROUTER_PORT)

    def _pods(self, name: str, component: str) -> list[dict[str, Any]]:
        return list(self._api.call("GET", f"{self._core}/pods", query=_selector(name, component))["items"])

    def _watched(self, path: str, query: dict[str, str], timeout_s: float) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ``LIST`` and the list, then events as they come, until `timeout_s` is over.

        A watch that ends before, or that the API server has forgotten, begins again with a list.
        """
        end = time.monotonic() + timeout_s
        while True:
            listed = self._api.call("GET", path, query=query)
            yield "LIST", listed
            left_s = int(end - time.monotonic())
            if left_s < 1:
                return
            since = {"watch": "1", "resourceVersion": listed["metadata"]["resourceVersion"]}
            for line in self._api.lines(path, query | since | {"timeoutSeconds": str(left_s)}):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    break
                yield event["type"], event["object"]

    @property
    def _core(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}"

    def _path(self, name: str | None = None) -> str:
        path = f"{_GROUP}/namespaces/{self.namespace}/{PLURAL}"
        return path if name is None else f"{path}/{name}"


def _holder_selector(name: str, env_idx: int) -> dict[str, str]:
    chosen = _selector(name, COMPONENT_ENV)["labelSelector"]
    return {"labelSelector": f"{chosen},{LABEL_ENV_IDX}={env_idx}"}


def _selector(name: str, component: str) -> dict[str, str]:
    return {"labelSelector": f"{LABEL_POOL}={name},{LABEL_COMPONENT}={component}"}


def is_ready(pod: dict[str, Any]) -> bool:
    """Return whether a pod serves."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _parsed(found: dict[str, Any]) -> OSWorldEnv:
    try:
        return OSWorldEnv.model_validate(found)
    except ValidationError as error:
        head = found.get("metadata", {})
        raise ClusterError(
            f"the pool {head.get('name')} is not of the form that this version knows: is osworld-env older than the "
            "cluster's operator?",
            tuple(str(error).splitlines()[:4]),
        ) from error
