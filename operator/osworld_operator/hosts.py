"""Which nodes take a pool's pods at all. Pure, and no scheduler: what is asked is whether a try is worth a spare."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

KEEPING_OUT: Final = frozenset({"NoSchedule", "NoExecute"})


@dataclass(frozen=True)
class Host:
    """What a node offers."""

    labels: Mapping[str, str]
    taints: Sequence[Mapping[str, str]]
    devices: frozenset[str]
    """Extended resources of which it has any."""

    def takes(self, spec: Mapping[str, Any]) -> bool:
        """Return whether a pod of this spec may run here. False where that takes a scheduler to tell."""
        affinity = spec.get("affinity", {})
        if "requiredDuringSchedulingIgnoredDuringExecution" in affinity.get("nodeAffinity", {}):
            return False
        if any(self.labels.get(name) != value for name, value in spec.get("nodeSelector", {}).items()):
            return False
        tolerations = spec.get("tolerations", ())
        if not all(any(_tolerates(each, taint) for each in tolerations) for taint in self.taints):
            return False
        return self.devices.issuperset(_devices(spec["containers"]))


def host(node: Mapping[str, Any]) -> Host:
    """Return what `node` offers."""
    taints = [taint for taint in node.get("spec", {}).get("taints", ()) if taint["effect"] in KEEPING_OUT]
    offered = node.get("status", {}).get("allocatable", {})
    return Host(
        node["metadata"].get("labels", {}),
        taints,
        frozenset(name for name, amount in offered.items() if "/" in name and str(amount) != "0"),
    )


def _devices(containers: Iterable[Mapping[str, Any]]) -> set[str]:
    return {name for each in containers for name in each.get("resources", {}).get("limits", {}) if "/" in name}


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, str]) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", "")
