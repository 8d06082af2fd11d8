"""The node plugin at a real kubelet: pods get /dev/kvm without rights, and only while the proof passes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from cluster.helm import CHART, WAIT, helm
from cluster.operator_rig import Pool
from nodes.images import BASE_IMAGE, PROJECT_IMAGES
from nodes.real_cluster import RealCluster
from osworld_contract.kube_names import CRD_NAME, DEFAULT_KVM_RESOURCE
from waiting import wait_until

pytestmark = pytest.mark.timeout(420)
"""As in test_nodes: the first test waits for the cluster."""

NAMESPACE: Final = "kvm"
RELEASE: Final = "kvm"
NODE: Final = "n0"
SLOTS: Final = 3
WORKS: Final = Path("/dev/osworld-test-kvm-works")
"""In the one folder that this machine and a plugin's container share; its /dev/shm is its own."""

SEEN_S: Final = 60.0
PROOF_S: Final = 120.0
"""A boot that does not end is given up after 20 s; three in a row."""

USES_KVM: Final = """
import fcntl, os
device = os.open("/dev/kvm", os.O_RDWR)
KVM_GET_API_VERSION = 0xAE00
print("uid", os.getuid(), "api", fcntl.ioctl(device, KVM_GET_API_VERSION))
"""


@pytest.fixture(scope="module")
def plugin(cluster: RealCluster) -> Iterator[RealCluster]:
    """The chart with the node plugin, on one of the two nodes, whose proof asks for a file."""
    WORKS.touch()
    head = {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}}
    cluster.plane.kubectl(
        "apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": head})
    )
    cluster.plane.kubectl("label", "node", NODE, "osworld.dev/kvm-node=true")
    values = {
        "images": {"pullPolicy": "Never", **{image.name: image.reference for image in PROJECT_IMAGES}},
        "operator": {"watchNamespaces": [NAMESPACE]},
        "node": {
            "enabled": True,
            "slots": SLOTS,
            "proofCommand": ["test", "-e", str(WORKS)],
            "proofInterval": 1,
        },
    }
    try:
        install(cluster, "install", values)
        yield cluster
    finally:
        WORKS.unlink(missing_ok=True)
        cluster.plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
        helm(cluster.plane, NAMESPACE, "uninstall", RELEASE)
        cluster.plane.kubectl("delete", "crd", CRD_NAME)  # kept, and this release's


def install(cluster: RealCluster, verb: str, values: dict[str, Any]) -> None:
    path = cluster.plane.folder / "kvm-values.json"
    path.write_text(json.dumps(values))
    helm(cluster.plane, NAMESPACE, verb, RELEASE, str(CHART), "--values", str(path), *WAIT)


def condition(cluster: RealCluster) -> tuple[str, str]:
    """Return status and message of the node's condition."""
    conditions = cluster.plane.get(f"/api/v1/nodes/{NODE}")["status"]["conditions"]
    found: dict[str, str] = next((each for each in conditions if each["type"] == "KVMReady"), {})
    return found.get("status", ""), found.get("message", "")


def allocatable(cluster: RealCluster) -> int:
    found = cluster.plane.get(f"/api/v1/nodes/{NODE}")["status"]["allocatable"]
    return int(found.get(DEFAULT_KVM_RESOURCE, 0))


def pod(name: str, command: list[str]) -> dict[str, Any]:
    """Return a pod as the level ``restricted`` asks for, with a slot."""
    container = {
        "name": "main",
        "image": BASE_IMAGE,
        "imagePullPolicy": "Never",
        "command": command,
        "resources": {"limits": {DEFAULT_KVM_RESOURCE: "1"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1001, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "securityContext": security}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {**spec, "automountServiceAccountToken": False, "containers": [container]},
    }


def test_a_pod_without_rights_gets_the_device(plugin: RealCluster, namespace: str) -> None:
    plane = plugin.plane
    wait_until(lambda: allocatable(plugin) == SLOTS, SEEN_S, "the kubelet knows the slots")
    wait_until(lambda: condition(plugin)[0] == "True", SEEN_S, "the node's condition")
    plane.kubectl("create", "-n", namespace, "-f", "-", text=json.dumps(pod("user", ["python3", "-c", USES_KVM])))
    plane.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "-n", namespace, "pod/user", "--timeout=50s")
    assert "uid 1001 api 12" in plane.kubectl("logs", "-n", namespace, "user")


def test_a_proof_that_fails_takes_the_slots_and_no_pod(plugin: RealCluster, namespace: str) -> None:
    plane = plugin.plane
    wait_until(lambda: allocatable(plugin) == SLOTS, SEEN_S, "the kubelet knows the slots")
    plane.kubectl("create", "-n", namespace, "-f", "-", text=json.dumps(pod("runs", ["sleep", "600"])))
    plane.kubectl("wait", "--for=condition=Ready", "-n", namespace, "pod/runs", "--timeout=50s")
    WORKS.unlink()
    wait_until(lambda: allocatable(plugin) == 0, SEEN_S, "no slot is left")
    wait_until(lambda: condition(plugin)[0] == "False", SEEN_S, "the node's condition")
    assert "the proof ended with 1" in condition(plugin)[1]
    pool = Pool(plane, NAMESPACE, "machines")
    image = {"url": "https://images.test/a.qcow2"}
    pool.apply(
        replicas=1, spares=0, desktop={"provider": "qemu", "accelerator": "kvm", "memory": "1Gi", "image": image}
    )
    wait_until(lambda: pool.condition("Degraded") == ("True", "NoKVMDevice"), SEEN_S, "the pool says why it waits")
    assert plane.get(f"/api/v1/namespaces/{namespace}/pods/runs")["status"]["phase"] == "Running"
    plane.kubectl("delete", "-n", NAMESPACE, "owe/machines", "--wait=false")
    WORKS.touch()
    wait_until(lambda: allocatable(plugin) == SLOTS, SEEN_S, "the slots are back")


def test_a_kubelet_that_restarts_is_told_again(plugin: RealCluster) -> None:
    node = plugin.nodes[NODE]
    wait_until(lambda: allocatable(plugin) == SLOTS, SEEN_S, "the kubelet knows the slots")
    node.cut_power()
    node.start()
    plugin.wait_ready()
    wait_until(
        lambda: node.run("ls", "/var/lib/kubelet/device-plugins/osworld-kvm.sock"), SEEN_S, "the plugin's socket"
    )
    wait_until(lambda: allocatable(plugin) == SLOTS, SEEN_S, "the kubelet knows the slots again")


def test_the_images_own_proof_says_what_this_machine_can(plugin: RealCluster) -> None:
    """Booted under KVM in the plugin's container, and on this machine: both say the same."""
    argv = [sys.executable, "-m", "osworld_envpod.desktops.qemu", "--prove-kvm"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PROOF_S, check=False)
    works = json.loads(done.stdout)["works"]
    values = helm(plugin.plane, NAMESPACE, "get", "values", RELEASE, "--output", "json")
    given = json.loads(values)
    given["node"]["proofCommand"] = []
    install(plugin, "upgrade", given)
    if works:
        wait_until(lambda: condition(plugin) == ("True", "a machine starts under KVM"), PROOF_S, "the real proof")
    else:
        wait_until(lambda: '"works": false' in condition(plugin)[1], PROOF_S, "the real proof's words")
