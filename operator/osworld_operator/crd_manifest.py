"""The CustomResourceDefinition as a manifest. Pure; `osworld_operator.crd` writes it."""

from typing import Any, Final

from osworld_contract.crd import OSWorldEnvSpec, OSWorldEnvStatus
from osworld_contract.kube_names import (
    API_GROUP,
    API_VERSION,
    CRD_NAME,
    KIND,
    PLURAL,
    POOL_NAME_MAX_CHARS,
    SHORT_NAME,
    SINGULAR,
)
from osworld_operator.crd_schema import structural_schema

_CONDITION: Final = ".status.conditions[?(@.type=='{}')].{}"

_COLUMNS: Final = (
    ("Desired", "integer", ".spec.replicas", 0),
    ("Ready", "integer", ".status.ready", 0),
    ("Busy", "integer", ".status.busy", 0),
    ("Spare", "integer", ".status.spare", 0),
    ("Faulted", "integer", ".status.faulted", 0),
    ("Status", "string", _CONDITION.format("Ready", "reason"), 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Updated", "integer", ".status.updated", 1),
    ("Provider", "string", ".spec.desktop.provider", 1),
    ("Degraded", "string", _CONDITION.format("Degraded", "reason"), 1),
    ("URL", "string", ".status.url", 1),
)
"""Name, type, path and priority of the columns of ``kubectl get``; 1 is shown with ``-o wide``."""

_NAME_RULE: Final = {
    "rule": f"size(self.metadata.name) <= {POOL_NAME_MAX_CHARS} && "
    "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "message": f"metadata.name must have at most {POOL_NAME_MAX_CHARS} characters, begin with a letter and hold "
    "lower-case letters, digits and dashes only: a Service and pods are named after it",
}


def crd_manifest() -> dict[str, Any]:
    """Return the definition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": CRD_NAME},
        "spec": {
            "group": API_GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT_NAME],
                "categories": ["all", "osworld"],
            },
            "versions": [_version()],
        },
    }


def _version() -> dict[str, Any]:
    return {
        "name": API_VERSION,
        "served": True,
        "storage": True,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [_column(*column) for column in _COLUMNS],
        "schema": {
            "openAPIV3Schema": {
                "description": "A pool of OSWorld desktops behind one URL.",
                "type": "object",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                    "spec": structural_schema(OSWorldEnvSpec),
                    "status": structural_schema(OSWorldEnvStatus),
                },
                "x-kubernetes-validations": [_NAME_RULE],
            }
        },
    }


def _column(name: str, kind: str, path: str, priority: int) -> dict[str, Any]:
    return {"name": name, "type": kind, "jsonPath": path} | ({"priority": priority} if priority else {})
