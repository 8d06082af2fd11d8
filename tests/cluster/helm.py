"""Helm at a test's control plane."""

import os
import subprocess
from pathlib import Path
from typing import Any, Final

from cluster.control_plane import ControlPlane
from cluster.programs import programs_dir

CHART: Final = Path(__file__).parents[2] / "charts" / "osworld-env"
RELEASE: Final = "osw"
EVERYTHING: Final[dict[str, Any]] = {
    "test": {"pool": "desks", "namespace": "train"},
    "images": {"pullSecrets": ["registry"]},
    "operator": {
        "replicas": 3,
        "watchNamespaces": ["train", "more"],
        "nodeSelector": {"role": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "priorityClassName": "system-cluster-critical",
        "podAnnotations": {"note": "x"},
    },
    "node": {"enabled": True, "proofCommand": ["true"]},
    "monitoring": {
        "namespace": "prometheus",
        "podMonitor": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "pools": [{"name": "desks", "namespace": "train"}],
        },
        "rules": {"enabled": True},
        "dashboard": {"enabled": True},
    },
}
"""Values that switch on all that is off."""
DEADLINE_S: Final = 240
"""Longer than helm's own, which says what is not ready."""
WAIT: Final = ("--wait", "--timeout=180s")


def helm(plane: ControlPlane, namespace: str, *argv: str, text: str | None = None) -> str:
    """Run helm with `text` on its standard input, and return what it printed.

    Raises:
        AssertionError: It failed; with its words.
    """
    command = [str(programs_dir() / "helm"), "--kubeconfig", str(plane.kubeconfig), "--namespace", namespace, *argv]
    environment = {**os.environ, "HELM_CACHE_HOME": str(plane.folder), "HELM_CONFIG_HOME": str(plane.folder)}
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=DEADLINE_S, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
