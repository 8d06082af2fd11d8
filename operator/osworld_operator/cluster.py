"""All that the operator asks and tells the API server, and nothing else does but its lease."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from osworld_contract.kube_names import (
    API_GROUP,
    API_VERSION,
    KIND,
    LABEL_ENV_EPOCH,
    LABEL_ENV_IDX,
    LABEL_RETIRED,
    PLURAL,
)
from osworld_operator.api import APPLY_PATCH, MERGE_PATCH, Api
from osworld_operator.children import env_selector_text
from osworld_operator.errors import ClusterError, NotFoundError
from osworld_operator.owner import MANAGER
from osworld_operator.view import PodView

logger = logging.getLogger(__name__)

PATHS: Final = {
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "Secret": ("/api/v1", "secrets"),
    "Service": ("/api/v1", "services"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
}
"""Where the API server keeps each kind of a pool's children."""

EVENT_MESSAGE_MAX_CHARS: Final = 1024
"""Source: Kubernetes, ``pkg/apis/core/validation``."""


class Cluster:
    """The API server, in the operator's words. Every method may raise `ClusterError`."""

    def __init__(self, api: Api, fence: Callable[[], None]) -> None:
        """Take the API server, and what raises where this process must not write now."""
        self._api = api
        self.fence = fence

    async def env(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return an OSWorldEnv, or None."""
        try:
            found: dict[str, Any] = await self._api.call("GET", _env_path(namespace, name))
        except NotFoundError:
            return None
        return found

    async def reserve_epoch(self, env: dict[str, Any], epoch: int) -> dict[str, Any]:
        """Write the largest epoch that will be given, and return the OSWorldEnv with it.

        Raises:
            ConflictError: `env` changed meanwhile: another operator may be at work.
        """
        head = env["metadata"]
        body = {"metadata": {"resourceVersion": head["resourceVersion"]}, "status": {"lastEpoch": epoch}}
        path = f"{_env_path(head['namespace'], head['name'])}/status"
        done: dict[str, Any] = await self._write("PATCH", path, body, content_type=MERGE_PATCH)
        return done

    async def write_status(self, env: dict[str, Any], status: dict[str, Any]) -> None:
        """Replace the status. A field that is left out is removed."""
        head = env["metadata"]
        gone = {key: None for key in env.get("status", {}) if key not in status}
        body = {"metadata": {"resourceVersion": head["resourceVersion"]}, "status": {**gone, **status}}
        path = f"{_env_path(head['namespace'], head['name'])}/status"
        await self._write("PATCH", path, body, content_type=MERGE_PATCH)

    async def apply(self, manifest: dict[str, Any]) -> None:
        """Make an object as `manifest` says, whether it is there or not (server-side apply)."""
        query = {"fieldManager": MANAGER, "force": "true"}
        await self._write("PATCH", _path(manifest), manifest, query, APPLY_PATCH)

    async def create(self, manifest: dict[str, Any]) -> None:
        """Create an object.

        Raises:
            ConflictError: It is there already.
        """
        await self._write("POST", _path(manifest).rpartition("/")[0], manifest, {"fieldManager": MANAGER})

    async def secret(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return a Secret, or None."""
        return await self._found(f"/api/v1/namespaces/{namespace}/secrets/{name}")

    async def pods(self, namespace: str, pool: str) -> list[dict[str, Any]]:
        """Return a pool's env pods as they are now: never from a cache, which may be older than our own writes."""
        found = await self._api.call(
            "GET", f"/api/v1/namespaces/{namespace}/pods", query={"labelSelector": env_selector_text(pool)}
        )
        return list(found["items"])

    async def pod(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return a pod, or None."""
        return await self._found(f"/api/v1/namespaces/{namespace}/pods/{name}")

    async def _found(self, path: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = await self._api.call("GET", path)
        except NotFoundError:
            return None
        return found

    async def user_of(self, token: str, audience: str) -> str | None:
        """Return whose token this is, None where it is nobody's or was not made for `audience`."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        status = (await self._api.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)).get("status", {})
        # An API server that knows no audiences would leave the list empty.
        is_meant = status.get("authenticated") is True and audience in status.get("audiences", ())
        return str(status["user"]["username"]) if is_meant else None

    async def nodes(self) -> list[dict[str, Any]]:
        """Return all nodes as they are now: an API server's cache may be older than what a watch has told."""
        found = await self._api.call("GET", "/api/v1/nodes")
        return list(found["items"])

    async def create_pod(self, manifest: dict[str, Any]) -> None:
        """Create an env pod.

        Raises:
            ConflictError: Its name is taken.
        """
        namespace = manifest["metadata"]["namespace"]
        await self._write("POST", f"/api/v1/namespaces/{namespace}/pods", manifest, {"fieldManager": MANAGER})

    async def assign(self, namespace: str, pod: PodView, env_idx: int, epoch: int) -> None:
        """Give `pod` an env_idx.

        Raises:
            ConflictError: The pod changed since it was looked at.
        """
        await self._label(namespace, pod, {LABEL_ENV_IDX: str(env_idx), LABEL_ENV_EPOCH: str(epoch)})

    async def release(self, namespace: str, pod: PodView, *, is_final: bool = False) -> None:
        """Take its env_idx away, and with `is_final` mark it as one to be removed. As `assign`."""
        mark: dict[str, str | None] = {LABEL_RETIRED: "true"} if is_final else {}
        await self._label(namespace, pod, {LABEL_ENV_IDX: None, LABEL_ENV_EPOCH: None, **mark})

    async def _label(self, namespace: str, pod: PodView, labels: dict[str, str | None]) -> None:
        head = {"uid": pod.uid, "resourceVersion": pod.resource_version, "labels": labels}
        query = {"fieldManager": MANAGER}
        await self._write("PATCH", _pod_path(namespace, pod), {"metadata": head}, query, MERGE_PATCH)

    async def delete_pod(self, namespace: str, pod: PodView, grace_s: int | None = None) -> None:
        """Delete `pod` as it was looked at; its own grace period, or `grace_s`, lets an episode end.

        Raises:
            ConflictError: It changed since, or another pod has its name.
        """
        preconditions = {"uid": pod.uid, "resourceVersion": pod.resource_version}
        grace = {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        await self._write("DELETE", _pod_path(namespace, pod), {"preconditions": preconditions, **grace})

    async def _write(
        self,
        method: str,
        path: str,
        body: Any,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """Make a call that changes something, if this is the one writer."""
        self.fence()
        return await self._api.call(method, path, body, query, content_type)

    async def record(self, env: dict[str, Any], reason: str, message: str, now: str, is_warning: bool = False) -> None:
        """Leave an event at an OSWorldEnv, for ``kubectl describe``. One that cannot be left is logged, no more."""
        head = env["metadata"]
        body = {
            "metadata": {"generateName": f"{head['name']}-", "namespace": head["namespace"]},
            "involvedObject": {
                "apiVersion": f"{API_GROUP}/{API_VERSION}",
                "kind": KIND,
                "name": head["name"],
                "namespace": head["namespace"],
                "uid": head["uid"],
            },
            "type": "Warning" if is_warning else "Normal",
            "reason": reason,
            "message": message[:EVENT_MESSAGE_MAX_CHARS],
            "source": {"component": MANAGER},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._write("POST", f"/api/v1/namespaces/{head['namespace']}/events", body)
        except ClusterError as error:
            logger.warning("event %s of %s/%s was lost: %s", reason, head["namespace"], head["name"], error)


def _env_path(namespace: str, name: str) -> str:
    return f"/apis/{API_GROUP}/{API_VERSION}/namespaces/{namespace}/{PLURAL}/{name}"


def _pod_path(namespace: str, pod: PodView) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{pod.name}"


def _path(manifest: dict[str, Any]) -> str:
    root, plural = PATHS[manifest["kind"]]
    head = manifest["metadata"]
    return f"{root}/namespaces/{head['namespace']}/{plural}/{head['name']}"
