"""Metadata that all children share: name, namespace, labels, and the reference to their OSWorldEnv. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from osworld_contract.crd import OSWorldEnv
from osworld_contract.kube_names import (
    API_GROUP,
    API_VERSION,
    APP_NAME,
    COMPONENT_ENV,
    COMPONENT_ROUTER,
    KIND,
    LABEL_COMPONENT,
    LABEL_INSTANCE,
    LABEL_MANAGED_BY,
    LABEL_NAME,
    LABEL_POOL,
)

MANAGER: Final = f"{APP_NAME}-operator"
"""Value of the label that says who keeps an object, and the field manager of what is applied."""


def selector(pool: str, component: str) -> dict[str, str]:
    """Return the labels that find the pods of one component of a pool. They never change: Deployments forbid it."""
    return {LABEL_POOL: pool, LABEL_COMPONENT: component}


def env_selector_text(pool: str) -> str:
    """Return the selector of a pool's env pods as the API takes it in a query and in ``status.selector``."""
    return ",".join(f"{name}={value}" for name, value in selector(pool, COMPONENT_ENV).items())


def labels(pool: str, component: str) -> dict[str, str]:
    """Return the labels of a child."""
    return {
        LABEL_NAME: APP_NAME,
        LABEL_INSTANCE: pool,
        LABEL_MANAGED_BY: MANAGER,
        **selector(pool, component),
    }


def metadata(
    env: OSWorldEnv, name: str, component: str = COMPONENT_ROUTER, more_labels: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the metadata of a child of `env`. Labels of ours win over `more_labels`."""
    pool = env.metadata.name
    return {
        "name": name,
        "namespace": env.metadata.namespace,
        "labels": {**(more_labels or {}), **labels(pool, component)},
        "ownerReferences": [owner_reference(env)],
    }


def owner_uid(found: Mapping[str, Any]) -> str | None:
    """Return the uid of what keeps an object, None where nothing does."""
    owner = keeper_of(found)
    return None if owner is None else owner["uid"]


def keeper_of(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the reference to what keeps an object."""
    owners = found["metadata"].get("ownerReferences", ())
    return next((owner for owner in owners if owner.get("controller")), None)


def owner_reference(env: OSWorldEnv) -> dict[str, Any]:
    """Return the reference by which the API server deletes a child after its OSWorldEnv. It blocks no deletion."""
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": KIND,
        "name": env.metadata.name,
        "uid": env.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
