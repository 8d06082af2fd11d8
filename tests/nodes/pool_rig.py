"""A pool as users make it: the chart by helm, one OSWorldEnv by kubectl, and the router's URL at a node."""

import base64
import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx

from cluster.helm import CHART, RELEASE, WAIT, helm
from cluster.operator_rig import NAMESPACE, Pool, is_ready
from nodes.images import PROJECT_IMAGES
from nodes.node import Node
from nodes.real_cluster import RealCluster
from osworld_contract.kube_names import (
    CONTAINER_SERVER,
    CRD_NAME,
    LABEL_ENV_IDX,
    SECRET_KEY_TOKEN,
    router_name,
    tokens_secret_name,
)
from waiting import wait_until

TRAIN: Final = "train"
REPLICAS: Final = 4
SPARES: Final = 1
READY_S: Final = 180.0
"""From nothing to a whole pool: its pods are 10 s apart on two cores."""
LOOK_S: Final = 3.0
"""Of one look at the router. One of its pods may be on a node without power."""
QUICK_LOOK_S: Final = 1.0
"""The same where it is timed: how late it may be noticed that an env is served by another pod."""
MOVES_MAX: Final = 5

SPEC: Final[dict[str, Any]] = {
    "replicas": REPLICAS,
    "spares": SPARES,
    # The trainer's own: a screen that is not at rest comes out another way where an episode is played again.
    "episode": {"stepPause": "500ms"},
    # All pods fit on one node of two processors, whose other one has no power.
    "podTemplate": {"resources": {"requests": {"cpu": "50m", "memory": "512Mi"}}},
    "router": {"replicas": 2, "service": {"type": "NodePort"}},
}


@dataclass(frozen=True)
class RunningPool:
    """A pool on the two nodes."""

    cluster: RealCluster
    pool: Pool
    token: str
    node_port: int
    ready_s: float
    look_s: float = LOOK_S

    def url(self, node: Node | None = None) -> str:
        """Return the router's URL at `node`, or at one that has power."""
        at = node or next(each for each in self.cluster.nodes.values() if each.has_power)
        return f"http://{at.address}:{self.node_port}"

    def look(self, path: str, node: Node | None = None) -> Any:
        """Return what the router answers to a GET, None where it is not good."""
        headers = {"Authorization": f"Bearer {self.token}"}
        with contextlib.suppress(httpx.TransportError):
            reply = httpx.get(self.url(node) + path, headers=headers, timeout=self.look_s, trust_env=False)
            if reply.status_code == 200:
                return reply.json()
        return None

    def answering(self, env_idx: int, node: Node | None = None) -> str | None:
        """Return the uid of the env server behind `env_idx` if it answers through the router with a good desktop."""
        listed = self.look("/envs", node)
        uids = {each["env_idx"]: each["uid"] for each in (listed or {"envs": []})["envs"]}
        state = self.look(f"/envs/{env_idx}/state", node)
        return uids.get(env_idx) if state and not state["fault"] and not state["is_draining"] else None

    def wait_whole(self) -> None:
        """Wait until every env answers and every spare is ready."""
        spec = self.pool.object["spec"]
        wait_until(lambda: self.pool.is_whole(spec["replicas"], spec["spares"]), self.ready_s, "a whole pool")
        for env_idx in range(spec["replicas"]):
            wait_until(lambda idx=env_idx: self.answering(idx), self.ready_s, f"an answer of env {env_idx}")  # type: ignore[misc]  # bound at once

    def node_of(self, pod: dict[str, Any]) -> Node:
        """Return the node on which a pod runs."""
        return self.cluster.nodes[pod["spec"]["nodeName"]]

    def wait_apart(self) -> None:
        """Wait until no node has all operators, all routers, or envs and all spares: the loss of one is bearable."""
        self.wait_whole()
        self._wait_everywhere(NAMESPACE, "operator")
        self._wait_everywhere(TRAIN, "router")
        wait_until(self._has_spare_elsewhere, self.ready_s, "spares apart")

    def _wait_everywhere(self, namespace: str, component: str) -> None:
        nodes = set(self.cluster.nodes)
        wait_until(lambda: self.nodes_with(namespace, component) == nodes, READY_S, f"a ready {component} on each node")

    def nodes_with(self, namespace: str, component: str) -> set[str]:
        """Return the nodes that have a ready pod of a component."""
        return {pod["spec"]["nodeName"] for pod in self.ready_pods(namespace, component)}

    def ready_pods(self, namespace: str, component: str) -> list[dict[str, Any]]:
        """Return the ready pods of a component."""
        selector = f"app.kubernetes.io/component={component}"
        pods = self.cluster.plane.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")["items"]
        return [pod for pod in pods if is_ready(pod)]

    def spares(self) -> dict[str, str]:
        """Return the node of each ready spare, by its uid."""
        pods = [pod for pod in self.pool.pods() if LABEL_ENV_IDX not in pod["metadata"]["labels"] and is_ready(pod)]
        return {pod["metadata"]["uid"]: pod["spec"]["nodeName"] for pod in pods}

    def _has_spare_elsewhere(self) -> bool:
        served = {pod["spec"]["nodeName"] for pod in self.pool.served().values()}
        return all(set(self.spares().values()) - {name} for name in served)

    def leader_node(self) -> Node:
        """Return the node of the operator that leads, once another one stands by on another node."""
        self._wait_everywhere(NAMESPACE, "operator")
        return self.node_of(self.leader())

    def envs_on(self, node: Node) -> dict[int, str]:
        """Return the uids of the pods of a node that have a number, by it."""
        return {i: pod["metadata"]["uid"] for i, pod in self.pool.served().items() if self.node_of(pod) is node}

    def node_to_lose(self, *, with_operator: bool) -> Node:
        """Return the leader's node, or the other, with an env on it: after a loss all are where they went."""
        for _ in range(MOVES_MAX):
            self.wait_apart()
            leader, nodes = self.leader_node(), self.cluster.nodes.values()
            node = next(each for each in nodes if (each is leader) == with_operator)
            if self.envs_on(node):
                return node
            self.delete_at_once(self.pool.pod(0))
        raise AssertionError("no env comes to the node")

    def served_again(self, env_idx: int, uid: str, deadline_s: float) -> float:
        """Return the seconds from now until another env server than `uid` answers for `env_idx`."""
        began, quick = time.monotonic(), replace(self, look_s=QUICK_LOOK_S)
        wait_until(lambda: quick.answering(env_idx) not in (None, uid), deadline_s, f"env {env_idx} by another pod")
        return time.monotonic() - began

    def lose(self, node: Node, deadline_s: float) -> list[float]:
        """Cut the power of a node; return the seconds until each of its envs is served again, in their order."""
        uids = self.envs_on(node)

        def again_s(env_idx: int) -> float:
            return self.served_again(env_idx, uids[env_idx], deadline_s)

        node.cut_power()
        # Each by itself: a look at one that is lost takes its whole time.
        with ThreadPoolExecutor(len(uids)) as threads:
            return sorted(threads.map(again_s, uids))

    def delete_at_once(self, pod: dict[str, Any]) -> None:
        """Take a pod out of the API; its node ends it some seconds later."""
        name = pod["metadata"]["name"]
        self.cluster.plane.kubectl("delete", "pod", "-n", self.pool.namespace, name, "--force", "--grace-period=0")

    def lease(self) -> dict[str, Any]:
        """Return the lease by which one operator leads."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{RELEASE}-osworld-env-operator"
        found: dict[str, Any] = self.cluster.plane.get(path)
        return found

    def leader(self) -> dict[str, Any]:
        """Return the pod of the operator that leads."""
        holder = self.lease()["spec"]["holderIdentity"]
        found: dict[str, Any] = self.cluster.plane.get(f"/api/v1/namespaces/{NAMESPACE}/pods/{holder}")
        return found

    def server_process(self, pod: dict[str, Any]) -> int:
        """Return the process id, on this machine, of the first process of a pod's env server."""
        statuses = {each["name"]: each for each in pod["status"]["containerStatuses"]}
        container = statuses[CONTAINER_SERVER]["containerID"].rpartition("/")[2]
        for process in sorted(int(path.name) for path in Path("/proc").glob("[0-9]*")):
            with contextlib.suppress(OSError):
                if container in Path(f"/proc/{process}/cgroup").read_text() and _is_first(process):
                    return process
        raise AssertionError(f"no process of {pod['metadata']['name']}")

    def kill_server(self, pod: dict[str, Any]) -> None:
        """Send SIGKILL to the first process of a pod's env server, as the kernel does when memory is short."""
        os.kill(self.server_process(pod), signal.SIGKILL)


def _is_first(process: int) -> bool:
    """Return whether `process` is the first one of its own process namespace."""
    status = Path(f"/proc/{process}/status").read_text()
    return next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1] == "1"


@contextlib.contextmanager
def running_pool(
    cluster: RealCluster,
    namespace: str = TRAIN,
    spec: Mapping[str, Any] = SPEC,
    ready_s: float = READY_S,
    level: str = "restricted",
) -> Iterator[RunningPool]:
    """Install the chart in a namespace at the Pod Security level ``restricted``, make the pool in one at `level`."""
    plane = cluster.plane
    cluster.make_namespace(NAMESPACE)
    cluster.make_namespace(namespace, level)
    images = [f"--set=images.{image.name}={image.reference}" for image in PROJECT_IMAGES]
    helm(plane, NAMESPACE, "install", RELEASE, str(CHART), "--set=images.pullPolicy=Never", *images, *WAIT)
    try:
        pool = Pool(plane, namespace)
        pool.apply(**spec)
        service = wait_until(lambda: _get(pool, "services", router_name(pool.name)), READY_S, "the router's Service")
        secret = wait_until(lambda: _get(pool, "secrets", tokens_secret_name(pool.name)), READY_S, "tokens")
        token = base64.b64decode(secret["data"][SECRET_KEY_TOKEN]).decode()
        running = RunningPool(cluster, pool, token, service["spec"]["ports"][0]["nodePort"], ready_s)
        running.wait_whole()
        yield running
    finally:
        plane.kubectl("delete", "namespace", namespace, "--wait=false")
        helm(plane, NAMESPACE, "uninstall", RELEASE)
        plane.kubectl("delete", "crd", CRD_NAME)  # kept, and this release's


def _get(pool: Pool, kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] | None = pool.plane.get(f"/api/v1/namespaces/{pool.namespace}/{kind}/{name}")
    assert found is not None, f"no {kind} {name}"
    return found
