"""What happened after a node lost its power, by the API server's own times: where the seconds went."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from cluster.operator_rig import NAMESPACE
from nodes.node import Node
from nodes.pool_rig import TRAIN, RunningPool
from osworld_contract.kube_names import LABEL_COMPONENT, LABEL_ENV_IDX

CONDITIONS = ("PodScheduled", "Ready")


def where(pool: RunningPool) -> dict[str, str]:
    """Return the node of each pod that an env waits for, by its name and part."""
    leader = pool.leader()["metadata"]["name"]
    found = {}
    for pod in _pods(pool):
        head = pod["metadata"]
        part = "leader" if head["name"] == leader else head["labels"][LABEL_COMPONENT]
        name = f"{head['name']} ({part} {head['labels'].get(LABEL_ENV_IDX, '')}".rstrip() + ")"
        found[name] = pod["spec"].get("nodeName", "none")
    return found


def timeline(pool: RunningPool, lost: Node, began: float) -> list[str]:
    """Return what happened since `began` (Unix time), in seconds from it; the API server counts whole ones."""
    since = [(datetime.fromisoformat(at).timestamp() - began, what) for at, what in _moments(pool, lost)]
    return [f"{seconds:6.1f} {what}" for seconds, what in sorted(since) if seconds > -1.0]


def _pods(pool: RunningPool) -> Iterator[dict[str, Any]]:
    for namespace in (NAMESPACE, TRAIN):
        yield from pool.cluster.plane.get(f"/api/v1/namespaces/{namespace}/pods")["items"]


def _moments(pool: RunningPool, lost: Node) -> Iterator[tuple[str, str]]:
    node = pool.cluster.plane.get(f"/api/v1/nodes/{lost.name}")
    for taint in node["spec"].get("taints", ()):
        if "timeAdded" in taint:
            yield taint["timeAdded"], f"node {lost.name}: {taint['key']}:{taint['effect']}"
    lease = pool.lease()["spec"]
    yield lease["acquireTime"], f"{lease['holderIdentity']} leads"
    for pod in _pods(pool):
        name = f"{pod['metadata']['name']} on {pod['spec'].get('nodeName', 'none')}"
        yield pod["metadata"]["creationTimestamp"], f"{name}: made"
        for item in pod["status"].get("conditions", ()):
            if item["type"] in CONDITIONS:
                yield item["lastTransitionTime"], f"{name}: {item['type']}={item['status']}"
    for event in pool.cluster.plane.get(f"/api/v1/namespaces/{TRAIN}/events")["items"]:
        if event["reason"] == "EnvMoved":
            yield event["lastTimestamp"] or event["eventTime"], event["message"]
