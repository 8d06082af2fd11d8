"""The whole cluster: control plane on the host, nodes in namespaces, one switch between them."""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cluster.control_plane import ControlPlane, control_plane
from cluster.programs import programs_dir
from nodes.names import start_names
from nodes.node import Node, NodePlace
from nodes.pki import Pki
from nodes.places import API_SERVICE, HOST, SERVICES
from nodes.processes import kill
from nodes.switch import Switch
from osworld_contract.places import cache_dir
from waiting import wait_until

NODES_READY_S: Final = 180.0
"""Measured: 6 to 17 s."""
NODE_GRACE_S: Final = 20
"""Silence after which a node is not ready any more."""
NODE_PERIOD_S: Final = 1
"""Between two looks of the controller manager at the nodes. It counts silence from one look and ends it at another, so
up to two periods are added to the grace."""
EVICTION_S: Final = 5
"""How long pods stay on a node that is not ready; Kubernetes' own default is 300."""
SHOWN_EVENTS: Final = 30
LOCK: Final = Path("/run/osworld-test-cluster.lock")


class CannotRunError(Exception):
    """The cluster cannot run here. The message says why."""


@dataclass
class RealCluster:
    """A running cluster."""

    plane: ControlPlane
    logs: Path
    nodes: dict[str, Node] = field(default_factory=dict)

    @property
    def kubeconfig(self) -> Path:
        """Return the kubeconfig of an administrator."""
        return self.plane.kubeconfig

    def is_ready(self, name: str) -> bool:
        """Return whether a node says that it is ready, and nobody has lost it."""
        node = self.plane.get(f"/api/v1/nodes/{name}") or {}
        conditions: list[dict[str, Any]] = node.get("status", {}).get("conditions", [])
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def wait_ready(self) -> None:
        """Wait until every node is ready; a node that has ended by itself is a RuntimeError."""

        def are_ready() -> bool:
            for node in self.nodes.values():
                node.check()
            return all(map(self.is_ready, self.nodes))

        wait_until(are_ready, NODES_READY_S, "all nodes ready")

    def make_namespace(self, name: str, level: str = "restricted") -> None:
        """Make a namespace at a Pod Security level, with the service account that its pods need."""
        head = {"name": name, "labels": {"pod-security.kubernetes.io/enforce": level}}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": head}
        self.plane.kubectl("apply", "-f", "-", text=json.dumps(body))
        self.plane.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=30s")

    def save(self) -> str:
        """Write what a person asks for after a failure beside the logs: objects, events, and what pods wrote.

        Returns:
            The first to look at: a line for each pod, and the last events.
        """
        for name, argv in {
            "pods.txt": ("get", "pods", "-A", "-o", "wide"),
            "nodes.txt": ("describe", "nodes"),
            "events.txt": ("get", "events", "-A", "--sort-by=.metadata.creationTimestamp"),
            "described.txt": ("describe", "pods", "-A"),
        }.items():
            (self.logs / name).write_text(self.plane.kubectl(*argv, is_fine=False))
        for pod in self.plane.get("/api/v1/pods")["items"]:
            at, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
            for which in ((), ("--previous",)):
                log = self.plane.kubectl("logs", "--all-containers", "--prefix", "-n", at, name, *which, is_fine=False)
                with (self.logs / f"{at}.{name}.log").open("a") as file:
                    file.write(log)
        events = (self.logs / "events.txt").read_text().splitlines()[-SHOWN_EVENTS:]
        return "\n".join([(self.logs / "pods.txt").read_text(), *events])


@contextlib.contextmanager
def real_cluster(logs: Path, store: Path, count: int = 2) -> Iterator[RealCluster]:
    """Run a cluster of `count` nodes that have the images of `store`, for the time of the block.

    All that it starts ends with this process, a kill included. A killed run leaves a folder and empty cgroups, which
    the next one removes.

    Raises:
        CannotRunError: Not root, or another cluster runs: its addresses are fixed.
    """
    if os.geteuid() != 0:
        raise CannotRunError("nodes need namespaces, mounts and cgroups: run as root")
    with contextlib.ExitStack() as stack:
        _lock(stack)
        folder = _fresh_folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        switch = Switch(logs)
        stack.callback(switch.close)
        pki = Pki(folder / "pki")
        plane = stack.enter_context(
            control_plane(programs_dir(), folder / "plane", host=HOST, flags=_flags(pki), logs=logs / "plane")
        )
        plane.kubectl("apply", "-f", "-", text=PROXY_ROLE)
        stack.callback(kill, start_names(plane.kubeconfig, folder, logs))
        running = RealCluster(plane, logs)
        for index in range(count):
            name = f"n{index}"
            place = NodePlace(index, count, folder / name, logs / name, programs_dir(), store)
            node = running.nodes[name] = Node(place, pki, plane.url, switch)
            stack.callback(node.cut_power)
            node.start()
        running.wait_ready()
        yield running


PROXY_ROLE: Final = """\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: test-kubelet-api}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:kubelet-api-admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: kube-apiserver}]
"""
"""The API server asks kubelets for logs and exec."""


def _flags(pki: Pki) -> dict[str, list[str]]:
    server, server_key = pki.issue("api-server", "kube-apiserver", None, HOST, API_SERVICE, "kubernetes.default.svc")
    client, client_key = pki.issue("kubelet-client", "kube-apiserver")
    return {
        "kube-apiserver": [
            f"--tls-cert-file={server}",
            f"--tls-private-key-file={server_key}",
            f"--client-ca-file={pki.ca}",
            f"--kubelet-client-certificate={client}",
            f"--kubelet-client-key={client_key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-cluster-ip-range={SERVICES}",
            "--enable-admission-plugins=NodeRestriction",
            f"--default-not-ready-toleration-seconds={EVICTION_S}",
            f"--default-unreachable-toleration-seconds={EVICTION_S}",
        ],
        "kube-controller-manager": [
            f"--root-ca-file={pki.ca}",
            f"--node-monitor-grace-period={NODE_GRACE_S}s",
            f"--node-monitor-period={NODE_PERIOD_S}s",
        ],
    }


def _lock(stack: contextlib.ExitStack) -> None:
    file = stack.enter_context(LOCK.open("w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CannotRunError("another test cluster runs on this machine, with the same addresses") from error


def _fresh_folder() -> Path:
    """Return an empty folder for this run, those of killed runs removed: the lock says that nobody uses them."""
    top = cache_dir() / "test-cluster" / "run"
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir(parents=True)
    return Path(tempfile.mkdtemp(dir=top))
