"""All that the command line asks and tells the API server about pools, and nothing else does."""

import base64
import socket
from typing import Any, Final

from pydantic import ValidationError

from osworld_contract.crd import OSWorldEnv
from osworld_contract.kube_names import (
    API_GROUP,
    API_VERSION,
    COMPONENT_ENV,
    COMPONENT_ROUTER,
    LABEL_COMPONENT,
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
        query = {"labelSelector": f"{LABEL_POOL}={name},{LABEL_COMPONENT}={component}"}
        return list(self._api.call("GET", f"{self._core}/pods", query=query)["items"])

    @property
    def _core(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}"

    def _path(self, name: str | None = None) -> str:
        path = f"{_GROUP}/namespaces/{self.namespace}/{PLURAL}"
        return path if name is None else f"{path}/{name}"


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
