"""A pool on two real nodes: how long an env_idx is not served after a loss, at the trainer's URL.

The baseline is a bare StatefulSet of the same pods, without a spare and without an operator. Needs root.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from nodes.images import ready_store
from nodes.pool_rig import REPLICAS, SPEC, TRAIN, RunningPool, running_pool
from nodes.real_cluster import NODE_GRACE_S, real_cluster
from nodes.timeline import timeline, where
from waiting import wait_until

LOGS = Path(__file__).parents[1] / "out" / "bench-pool"
"""Of the last run: what took the seconds is asked afterwards."""
DEADLINE_S = 180.0
DOUBLE = "baseline"
SPREAD = {**SPEC, "spares": 2, "scheduling": {"topologySpread": [{"topologyKey": "kubernetes.io/hostname"}]}}
"""Envs on both nodes, and a spare beside them: one alone is lost with half of the losses."""


def main() -> None:
    """Print one JSON object, and each measurement to standard error as it is taken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=20, help="runs of each kind but losses of nodes, 0 for none")
    parser.add_argument(
        "--node-losses",
        type=int,
        default=3,
        help="of each node: the leader's and the standby's",
    )
    given = parser.parse_args()
    with real_cluster(LOGS, ready_store()) as cluster, running_pool(cluster, spec=SPREAD) as pool:
        found: dict[str, Any] = {"node_grace_s": NODE_GRACE_S}
        if given.n:
            found |= {
                "deleted_s": repeated("deleted", given.n, lambda i: deleted(pool, i % REPLICAS)),
                "killed_s": repeated("killed", given.n, lambda i: killed(pool, i % REPLICAS)),
                "stateful_set_deleted_s": stateful_set(pool, given.n),
            }
        lost: dict[str, list[tuple[float, float]]] = {"node_lost_s": [], "operators_node_lost_s": []}
        for _ in range(given.node_losses):
            for key, seconds in lost.items():
                seconds.append(node_lost(pool, with_operator=key == "operators_node_lost_s"))
        for key, seconds in lost.items():
            found[key] = {"first": [first for first, _ in seconds], "all": [last for _, last in seconds]}
        print(json.dumps(found, indent=2))


def say(what: str, value: object) -> None:
    sys.stderr.write(f"{what}: {value}\n")
    sys.stderr.flush()


def repeated(what: str, count: int, measure: Callable[[int], float]) -> dict[str, float]:
    """Return median and maximum of `count` runs."""
    seconds = []
    for i in range(count):
        seconds.append(measure(i))
        say(what, round(seconds[-1], 2))
    return summary(seconds)


def summary(seconds: Sequence[float]) -> dict[str, float]:
    return {"p50": round(statistics.median(seconds), 2), "max": round(max(seconds), 2)}


def deleted(pool: RunningPool, env_idx: int) -> float:
    """Delete the pod of an env at once; from the command's return."""
    pool.wait_whole()
    pod = pool.pool.pod(env_idx)
    pool.delete_at_once(pod)
    return pool.served_again(env_idx, pod["metadata"]["uid"], DEADLINE_S)


def killed(pool: RunningPool, env_idx: int) -> float:
    """Kill the env server of an env."""
    pool.wait_whole()
    pod = pool.pool.pod(env_idx)
    pool.kill_server(pod)
    return pool.served_again(env_idx, pod["metadata"]["uid"], DEADLINE_S)


def node_lost(pool: RunningPool, *, with_operator: bool) -> tuple[float, float]:
    """Cut the power of a node; seconds to the first and the last env again."""
    cluster, lost = pool.cluster, pool.node_to_lose(with_operator=with_operator)
    say(f"{lost.name} is cut off", where(pool))
    at = time.time()
    try:
        took = pool.lose(lost, DEADLINE_S)
    finally:
        for line in timeline(pool, lost, at):
            say("  s", line)
        cluster.save()
    first, last = round(took[0], 1), round(took[-1], 1)
    say("node lost: first and last env again", (first, last))
    lost.start()
    cluster.wait_ready()
    return first, last


def stateful_set(pool: RunningPool, count: int) -> dict[str, float]:
    """Return what the same loss costs a StatefulSet of one pod, made of an env pod of the pool."""
    plane, spec = pool.cluster.plane, pool.pool.pod(0)["spec"]
    labels = {"app": DOUBLE}
    own = {name: value for name, value in spec.items() if name not in ("nodeName", "hostname")}
    body = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": DOUBLE},
        "spec": {
            "replicas": 1,
            "serviceName": DOUBLE,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": own},
        },
    }
    plane.kubectl("apply", "-n", TRAIN, "-f", "-", text=json.dumps(body))
    path = f"/api/v1/namespaces/{TRAIN}/pods/{DOUBLE}-0"

    def answering() -> str | None:
        pod = plane.get(path) or {}
        address = pod.get("status", {}).get("podIP")
        if not address:
            return None
        reply = httpx.get(f"http://{address}:18082/readyz", timeout=3, trust_env=False)
        return str(pod["metadata"]["uid"]) if reply.status_code == 200 else None

    def answering_or_none() -> str | None:
        try:
            return answering()
        except httpx.TransportError:
            return None

    def once(_: int) -> float:
        uid = wait_until(answering_or_none, DEADLINE_S, "the StatefulSet's pod")
        plane.kubectl("delete", "pod", "-n", TRAIN, f"{DOUBLE}-0", "--force", "--grace-period=0")
        began = time.monotonic()
        wait_until(lambda: answering_or_none() not in (None, uid), DEADLINE_S, "the StatefulSet's next pod")
        return time.monotonic() - began

    found = repeated("StatefulSet", count, once)
    plane.kubectl("delete", "statefulset", DOUBLE, "-n", TRAIN, "--wait=false")
    return found


if __name__ == "__main__":
    main()
