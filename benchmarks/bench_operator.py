"""The operator at a real API server: a pool of a thousand pods that KWOK plays, and the price of keeping it.

The baseline is a StatefulSet of as many pods in the same cluster, made by Kubernetes' own controller.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from cluster.conftest import CHECKOUT, node
from cluster.control_plane import ControlPlane, control_plane
from cluster.env_servers import played_env_servers
from cluster.operator_rig import Operator, Pool, operator, watched
from cluster.programs import programs_dir
from cluster.watching_router import watching_router
from waiting import wait_until

DEADLINE_S = 900
IDLE_S = 60.0
WATCH_S = 70.0


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pods", type=int, default=1000)
    pods = parser.parse_args().pods
    with tempfile.TemporaryDirectory() as folder, control_plane(programs_dir(), Path(folder), kwok=True) as plane:
        plane.kubectl("apply", "-f", str(CHECKOUT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "crd/osworldenvs.osworld.dev", "--timeout=30s")
        plane.kubectl("apply", "-f", "-", text=json.dumps(node("n0")))
        plane.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
        wait_until(lambda: plane.get("/api/v1/namespaces/default/serviceaccounts/default"), 60, "the service account")
        found: dict[str, Any] = {"pods": pods, "stateful_set_s": round(stateful_set(plane, pods), 1)}
        with played_env_servers(plane), operator(plane) as process:
            found |= measure(plane, process, pods)
            found["router_rss_mb"] = router_rss_mb(plane, Path(folder), pods)
        print(json.dumps(found, indent=2))


def stateful_set(plane: ControlPlane, pods: int) -> float:
    """Return the seconds until a StatefulSet with parallel pod management is ready."""
    labels = {"app": "baseline"}
    body = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "baseline"},
        "spec": {
            "replicas": pods,
            "podManagementPolicy": "Parallel",
            "serviceName": "baseline",
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a:1"}]}},
        },
    }
    began = time.monotonic()
    plane.kubectl("apply", "-n", "default", "-f", "-", text=json.dumps(body))
    path = "/apis/apps/v1/namespaces/default/statefulsets/baseline"
    wait_until(lambda: plane.get(path)["status"].get("readyReplicas") == pods, DEADLINE_S, "the StatefulSet")
    seconds = time.monotonic() - began
    plane.kubectl("delete", "statefulset", "baseline", "-n", "default", "--timeout=300s")
    selector = "/api/v1/namespaces/default/pods?labelSelector=app=baseline&limit=1"
    wait_until(lambda: not plane.get(selector)["items"], DEADLINE_S, "the end of the StatefulSet's pods")
    return seconds


def measure(plane: ControlPlane, process: Operator, pods: int) -> dict[str, Any]:
    """Return the figures of the operator."""
    pool = Pool(plane, "default")
    me = psutil.Process(process.pid)
    with watched(plane, pool) as seen:
        began, cpu = time.monotonic(), cpu_s(me)
        pool.apply(replicas=pods, spares=0)
        wait_until(lambda: pool.status.get("ready") == pods, DEADLINE_S, f"{pods} envs")
        seconds, spent = time.monotonic() - began, cpu_s(me) - cpu
    versions = actions(process)
    idle_began, cpu = time.monotonic(), cpu_s(me)
    time.sleep(IDLE_S)
    idle = (cpu_s(me) - cpu) / (time.monotonic() - idle_began)
    return {
        "created_s": round(seconds, 1),
        "operator_cpu_s": round(spent, 1),
        "double": len(seen.double) + len(seen.created) - len(set(seen.created)),
        "writes_per_pod": round(versions / pods, 2),
        "rss_mib": round(me.memory_info().rss / 2**20),
        "idle_core_share": round(idle, 4),
    }


def router_rss_mb(plane: ControlPlane, folder: Path, pods: int) -> float:
    """Return what a router that watches the pool has in memory, after its watch has ended once and gone on."""
    with watching_router(
        plane.kubeconfig, "default", folder, OSWORLD_ROUTER_POOL=Pool(plane, "default").name
    ) as router:
        wait_until(lambda: len(router.envs()) == pods, DEADLINE_S, f"{pods} envs at the router")
        time.sleep(WATCH_S)
        assert len(router.envs()) == pods
        return round(psutil.Process(router.process.pid).memory_info().rss / 1e6, 1)


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU time that a process has spent."""
    times = process.cpu_times()
    return float(times.user + times.system)


def actions(process: Operator) -> float:
    """Return how many changes of pods the operator has asked for."""
    text = process.metrics()
    lines = (line for line in text.splitlines() if line.startswith("osworld_operator_actions_total{"))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


if __name__ == "__main__":
    main()
