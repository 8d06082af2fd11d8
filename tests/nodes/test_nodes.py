"""The cluster itself: pods roll out and answer, and a node that loses its power is missed and comes back."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from nodes.images import BASE_IMAGE
from nodes.places import API_SERVICE
from nodes.real_cluster import NODE_GRACE_S, RealCluster
from waiting import wait_until

pytestmark = pytest.mark.timeout(420)
"""The first test waits for the cluster, whose nodes import every image: 78 s beside other work."""

ROLLOUT_S = 90
ANSWER_S = 30
NODE_PORT = 30080
LOST_S = NODE_GRACE_S + 40
"""The grace, and a loaded machine."""
REPLICAS = 3
OUTSIDE = "192.0.2.1"
"""Of a range that is kept for documents."""
WEB = ["python3", "-m", "http.server", "8000", "--directory", "/etc"]


def deployment(replicas: int) -> dict[str, Any]:
    container = {
        "name": "web",
        "image": BASE_IMAGE,
        "imagePullPolicy": "Never",
        "command": WEB,
        "readinessProbe": {"httpGet": {"path": "/debian_version", "port": 8000}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }
    pod = {
        "terminationGracePeriodSeconds": 1,
        "topologySpreadConstraints": [spread],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod},
        },
    }


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {
        "type": "NodePort",
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": 8000, "nodePort": NODE_PORT}],
    },
}


@pytest.fixture
def web(cluster: RealCluster, namespace: str) -> Iterator[str]:
    """Three web servers on both nodes behind a NodePort; their namespace."""
    for body in (deployment(REPLICAS), SERVICE):
        cluster.plane.kubectl("apply", "-n", namespace, "-f", "-", text=json.dumps(body))
    wait_until(lambda: len(ready_pods(cluster, namespace)) == REPLICAS, ROLLOUT_S, "three ready pods")
    yield namespace
    cluster.plane.kubectl("delete", "-n", namespace, "service/web", "deployment/web", "--wait=false")


def ready_pods(cluster: RealCluster, namespace: str) -> dict[str, str]:
    """Return the node of each pod that is ready."""
    found = {}
    for pod in cluster.plane.get(f"/api/v1/namespaces/{namespace}/pods")["items"]:
        conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", ())}
        if conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]:
            found[pod["metadata"]["name"]] = pod["spec"]["nodeName"]
    return found


def answers(address: str) -> bool:
    try:
        reply = httpx.get(f"http://{address}:{NODE_PORT}/debian_version", timeout=3, trust_env=False)
    except httpx.TransportError:
        return False
    return reply.status_code == 200


def test_a_deployment_rolls_out_and_answers_at_every_node(cluster: RealCluster, web: str) -> None:
    assert set(ready_pods(cluster, web).values()) == set(cluster.nodes)
    for node in cluster.nodes.values():
        wait_until(partial(answers, node.address), ANSWER_S, f"an answer at {node.name}")


def test_logs_and_exec_work(cluster: RealCluster, web: str) -> None:
    pod = next(iter(ready_pods(cluster, web)))
    assert "GET /debian_version" in cluster.plane.kubectl("logs", "-n", web, pod)
    assert cluster.plane.kubectl("exec", "-n", web, pod, "--", "id", "-u").strip().endswith("1000")


def test_a_pod_reaches_services_and_the_api_and_nothing_outside(cluster: RealCluster, web: str) -> None:
    pod = next(iter(ready_pods(cluster, web)))
    service = cluster.plane.get(f"/api/v1/namespaces/{web}/services/web")["spec"]["clusterIP"]

    def reaches(address: str, port: int) -> bool:
        program = f"import socket; socket.create_connection(({address!r}, {port}), timeout=3)"
        cluster.plane.kubectl("exec", "-n", web, pod, "--", "python3", "-c", program)
        return True

    # kube-proxy learns of a new Service a moment after the API server.
    wait_until(lambda: reaches(service, 80), ANSWER_S, "the Service from a pod")
    assert reaches(API_SERVICE, 443)
    with pytest.raises(AssertionError, match="unreachable"):
        reaches(OUTSIDE, 443)


def test_a_node_that_loses_its_power_is_missed_and_comes_back(cluster: RealCluster, web: str) -> None:
    lost, other = cluster.nodes["n1"], cluster.nodes["n0"]
    before = ready_pods(cluster, web)

    lost.cut_power()

    assert not answers(lost.address)
    wait_until(lambda: not cluster.is_ready("n1"), LOST_S, "n1 is missed")
    wait_until(lambda: set(ready_pods(cluster, web).values()) == {"n0"}, ROLLOUT_S, "its pods are on n0")
    wait_until(lambda: len(ready_pods(cluster, web)) == REPLICAS, ROLLOUT_S, "three ready pods")
    wait_until(lambda: answers(other.address), ANSWER_S, "an answer at n0")

    lost.start()

    cluster.wait_ready()
    wait_until(lambda: answers(lost.address), ANSWER_S, "an answer at n1")
    gone = {name for name, node in before.items() if node == "n1"}
    wait_until(lambda: not gone & set(ready_pods(cluster, web)), ROLLOUT_S, "no pod has come back from the dead")


KILLED = """
import pathlib, sys
from nodes.switch import Switch
switch = Switch(pathlib.Path(sys.argv[1]), link="owe9", host="198.18.250.1")
print(switch.pid, flush=True)
sys.stdin.read()
"""


def test_nothing_is_left_of_a_run_that_was_killed(tmp_path: Path) -> None:
    """With a link of its own, beside the session's cluster."""
    link = Path("/sys/class/net/owe9")
    argv = [sys.executable, "-c", KILLED, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        switch = Path("/proc", run.stdout.readline().strip())
        assert link.exists()
        run.kill()
    wait_until(lambda: not switch.exists(), ANSWER_S, "the switch has ended")
    wait_until(lambda: not link.exists(), ANSWER_S, "its cable is gone")
