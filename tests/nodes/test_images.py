"""The project's own images: each starts as pods of a pool do, at the Pod Security level ``restricted``."""

import json

import pytest

from nodes.images import PROJECT_IMAGES, Image
from nodes.real_cluster import RealCluster

pytestmark = pytest.mark.timeout(420)
"""As in test_nodes: the first test waits for the cluster."""

PROGRAM = """
import importlib, importlib.metadata, os, pathlib, sys
module = importlib.import_module(f"{sys.argv[1]}.__main__")
assert os.getuid() == 1001, os.getuid()
assert not os.access("/opt/osworld-env", os.W_OK)
print(module.__name__, importlib.metadata.version("osworld-env"))
"""
MODULES = {"router": "osworld_router", "operator": "osworld_operator"}
"""Of the images that are no more than one Python package."""


@pytest.mark.parametrize("image", [each for each in PROJECT_IMAGES if each.name in MODULES], ids=lambda each: each.name)
def test_an_image_has_its_part_and_needs_no_rights(cluster: RealCluster, namespace: str, image: Image) -> None:
    module = MODULES[image.name]
    said = output(cluster, namespace, image, ["python", "-c", PROGRAM, module], "Succeeded")
    assert f"{module}.__main__ 0." in said


def test_env_servers_have_a_kernel_that_shows_whether_kvm_works(cluster: RealCluster, namespace: str) -> None:
    [image] = (each for each in PROJECT_IMAGES if each.name == "env")
    said = output(cluster, namespace, image, ["python", "-m", "osworld_envpod.desktops.qemu", "--prove-kvm"], "Failed")
    # A kernel is looked for first: only the device, which this pod did not ask for, is missing.
    assert json.loads(said) == {"works": False, "reason": "/dev/kvm is missing"}


def output(cluster: RealCluster, namespace: str, image: Image, command: list[str], phase: str) -> str:
    """Return what `command` writes in a pod without rights that ends in `phase`."""
    security = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "name": "main",
        "image": image.reference,
        "imagePullPolicy": "Never",
        "command": command,
        "env": [{"name": "OSWORLD_CACHE_DIR", "value": "/tmp/cache"}],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "securityContext": security,
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": image.name}, "spec": spec}
    cluster.plane.kubectl("create", "-n", namespace, "-f", "-", text=json.dumps(pod))
    end = f"--for=jsonpath={{.status.phase}}={phase}"
    cluster.plane.kubectl("wait", end, "-n", namespace, f"pod/{image.name}", "--timeout=50s")
    return cluster.plane.kubectl("logs", "-n", namespace, image.name)
