"""Pieces of pods that more than one kind of pod has: security contexts, probes, variables. Pure."""

from typing import Any, Final

from osworld_contract.crd.placement import EnvVar
from osworld_operator.child_settings import ChildSettings

SERVER_UID: Final = 1001
"""User of env server, router and operator. Not the desktop's, which is 1000 as OSWorld's tasks name it: what the agent
runs must not be the user that holds the secrets."""

DESKTOP_UID: Final = 1000


def pod_security(uid: int) -> dict[str, Any]:
    """Return a pod's security context, as the Pod Security level ``restricted`` asks for."""
    return {
        "runAsNonRoot": True,
        "runAsUser": uid,
        "runAsGroup": uid,
        "fsGroup": uid,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(uid: int | None = None) -> dict[str, Any]:
    """Return a container's security context; `uid` where it is not the pod's."""
    context: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    return context if uid is None else {**context, "runAsUser": uid, "runAsGroup": uid}


def image(settings: ChildSettings, name: str) -> dict[str, Any]:
    """Return what says which image a container has."""
    return {"image": name, "imagePullPolicy": settings.pull_policy}


def pull_secrets(settings: ChildSettings) -> dict[str, Any]:
    """Return a pod's pull secrets, if there are any."""
    if not settings.pull_secrets:
        return {}
    return {"imagePullSecrets": [{"name": name} for name in settings.pull_secrets]}


def http_probe(path: str, port: int, *, period_s: int, failures: int, timeout_s: int = 2) -> dict[str, Any]:
    """Return a probe of `path`, which needs no token."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period_s,
        "timeoutSeconds": timeout_s,
        "failureThreshold": failures,
    }


def variables(values: dict[str, str]) -> list[dict[str, Any]]:
    """Return plain variables of a container."""
    return [{"name": name, "value": value} for name, value in values.items()]


def secret_variable(name: str, secret: str, key: str, *, optional: bool = False) -> dict[str, Any]:
    """Return a variable whose value is kept in a Secret."""
    reference: dict[str, Any] = {"name": secret, "key": key}
    if optional:
        reference["optional"] = True
    return {"name": name, "valueFrom": {"secretKeyRef": reference}}


def given_variable(given: EnvVar) -> dict[str, Any]:
    """Return a variable of the pool's own, in the API's form."""
    return given.model_dump(by_alias=True, exclude_none=True, mode="json")
