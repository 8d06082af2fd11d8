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
        "command": ["python", "-c", PROGRAM, module],
        "securityContext": security,
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": image.name},
        "spec": {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]},
    }
    cluster.plane.kubectl("create", "-n", namespace, "-f", "-", text=json.dumps(pod))
    phases = "jsonpath={.status.phase}=Succeeded"
    cluster.plane.kubectl("wait", f"--for={phases}", "-n", namespace, f"pod/{image.name}", "--timeout=50s")
    assert f"{module}.__main__ 0." in cluster.plane.kubectl("logs", "-n", namespace, image.name)
