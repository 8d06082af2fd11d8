"""The operator as a process at the test's control plane, and what a pool looks like from outside."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from cluster.control_plane import ControlPlane
from osworld_contract.kube_names import LABEL_COMPONENT, LABEL_ENV_EPOCH, LABEL_ENV_IDX, LABEL_POOL
from waiting import wait_until

NAMESPACE = "osworld-system"

CONVERGE_S = 90
"""Until a pool is as its spec asks. Seconds on an idle machine."""


class Operator:
    """The operator's process."""

    def __init__(self, plane: ControlPlane, kubeconfig: Path | None = None, **variables: str) -> None:
        self._kubeconfig = kubeconfig or plane.kubeconfig
        self._variables = {"OSWORLD_OPERATOR_NAMESPACE": NAMESPACE, "OSWORLD_OPERATOR_NAME": "first", **variables}
        plane.kubectl("create", "namespace", NAMESPACE, is_fine=False)  # it may be there
        self.log = self._kubeconfig.with_suffix(f".{self._variables['OSWORLD_OPERATOR_NAME']}.operator.log")
        self.log.write_bytes(b"")  # of an operator of that name before
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        environment = {
            **os.environ,
            "KUBECONFIG": str(self._kubeconfig),
            "OSWORLD_ENV_IMAGE": "local/env:1",
            "OSWORLD_DESKTOP_IMAGE": "local/desktop:1",
            "OSWORLD_ROUTER_IMAGE": "local/router:1",
            "OSWORLD_OPERATOR_HOST": "127.0.0.1",
            "OSWORLD_OPERATOR_PORT": "0",
            "OSWORLD_OPERATOR_ADDRESS": "127.0.0.1",
            **self._variables,
        }
        with self.log.open("ab") as log:
            argv = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "osworld_operator"]
            self._process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)

    @property
    def port(self) -> int:
        """Port of its own HTTP, once it listens."""
        found = wait_until(
            lambda: re.findall(r"listening on \('127.0.0.1', (\d+)\)", self.log.read_text()), 30, "a port"
        )
        return int(found[-1])

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.port}/metrics", trust_env=False).text

    def is_alive(self) -> bool:
        """Whether it says of itself that it is."""
        return httpx.get(f"http://127.0.0.1:{self.port}/livez", trust_env=False).status_code == 200

    def is_writer(self) -> bool:
        """Whether it says of itself that it has the lease."""
        found: bool = self._ready().json()["is_leader"]
        return found

    def is_standby(self) -> bool:
        """Whether it says of itself that it is ready, and that another one leads."""
        reply = self._ready()
        return reply.status_code == 200 and not reply.json()["is_leader"]

    def _ready(self) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=2, trust_env=False)

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)

    def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)


@contextlib.contextmanager
def operator(plane: ControlPlane, kubeconfig: Path | None = None, **variables: str) -> Iterator[Operator]:
    """Run the operator during the block, with all rights or with those of `kubeconfig`."""
    running = Operator(plane, kubeconfig, **variables)
    running.start()
    try:
        yield running
    finally:
        running.kill()


class Pool:
    """An OSWorldEnv in the cluster."""

    def __init__(self, plane: ControlPlane, namespace: str, name: str = "desks") -> None:
        self.plane = plane
        self.namespace = namespace
        self.name = name

    def apply(self, **spec: Any) -> None:
        spec = {"desktop": {"provider": "xvfb", "cpus": 1, "memory": "1Gi"}, **spec}
        body = {
            "apiVersion": "osworld.dev/v1alpha1",
            "kind": "OSWorldEnv",
            "metadata": {"name": self.name},
            "spec": spec,
        }
        self.plane.kubectl("apply", "-n", self.namespace, "-f", "-", text=json.dumps(body))

    def scale(self, replicas: int) -> None:
        self.plane.kubectl("scale", "-n", self.namespace, f"owe/{self.name}", f"--replicas={replicas}")

    @property
    def object(self) -> dict[str, Any]:
        path = f"/apis/osworld.dev/v1alpha1/namespaces/{self.namespace}/osworldenvs/{self.name}"
        found: dict[str, Any] = self.plane.get(path)
        return found

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.object.get("status", {}))

    def condition(self, kind: str) -> tuple[str, str]:
        """Return status and reason."""
        for item in self.status.get("conditions", ()):
            if item["type"] == kind:
                return item["status"], item["reason"]
        return "", ""

    def pods(self) -> list[dict[str, Any]]:
        selector = f"{LABEL_POOL}={self.name},{LABEL_COMPONENT}=env"
        found = self.plane.get(f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={selector}")
        return list(found["items"])

    def served(self) -> dict[int, dict[str, Any]]:
        """Return the pod of each env_idx; fails where two have one."""
        found: dict[int, dict[str, Any]] = {}
        for pod in self.pods():
            idx = pod["metadata"]["labels"].get(LABEL_ENV_IDX)
            if idx is not None:
                assert int(idx) not in found, f"two pods have env_idx {idx}"
                found[int(idx)] = pod
        return found

    def epochs(self) -> dict[int, int]:
        return {idx: int(pod["metadata"]["labels"][LABEL_ENV_EPOCH]) for idx, pod in self.served().items()}

    def pod(self, idx: int) -> dict[str, Any]:
        return self.served()[idx]

    def is_whole(self, replicas: int, spares: int) -> bool:
        """Whether there are exactly the pods that were asked for, all ready, with the numbers 0 to replicas-1."""
        pods, status = self.pods(), self.status
        return (
            len(pods) == replicas + spares
            and sorted(self.served()) == list(range(replicas))
            and all(map(is_ready, pods))
            and (status.get("ready"), status.get("spare"), status.get("desired")) == (replicas, spares, replicas)
        )

    def wait_whole(self, replicas: int, spares: int) -> None:
        wait_until(lambda: self.is_whole(replicas, spares), CONVERGE_S, f"{replicas} envs and {spares} spares")


def is_ready(pod: dict[str, Any]) -> bool:
    """Return whether a pod that stays says of itself that it is ready: the pool's status comes a moment later."""
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


@dataclass
class Watcher:
    """What a watch saw of a pool's pods, for statements about every moment in between."""

    double: list[str] = field(default_factory=list)
    """Moments at which two pods had one env_idx."""
    created: list[str] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def watched(plane: ControlPlane, pool: Pool) -> Iterator[Watcher]:
    """Watch a pool's pods during the block."""
    seen = Watcher()
    path = f"/api/v1/namespaces/{pool.namespace}/pods"
    selector = f"{LABEL_POOL}={pool.name},{LABEL_COMPONENT}=env"
    stop = threading.Event()

    def follow() -> None:
        with plane.client.stream("GET", path, params={"watch": "1", "labelSelector": selector}, timeout=600) as reply:
            for line in reply.iter_lines():
                _note(seen, json.loads(line))
                if stop.is_set():
                    return

    def until_the_end() -> None:
        with contextlib.suppress(httpx.TransportError):  # the API server may end first
            follow()

    thread = threading.Thread(target=until_the_end, daemon=True)
    thread.start()
    yield seen
    stop.set()


def _note(seen: Watcher, event: dict[str, Any]) -> None:
    head = event["object"]["metadata"]
    name, idx = head["name"], head.get("labels", {}).get(LABEL_ENV_IDX)
    if event["type"] == "ADDED":
        seen.created.append(name)
    if event["type"] == "DELETED" or idx is None:
        seen.owners.pop(name, None)
    else:
        seen.owners[name] = idx
    if len(set(seen.owners.values())) != len(seen.owners):
        seen.double.append(f"{event['type']} {name} {idx}: {seen.owners}")
