"""The chart at a real API server: installed, upgraded, removed; and its rights are enough for the real operator."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from cluster.env_servers import played_env_servers
from cluster.move_wishes import ask, holder
from cluster.move_wishes import token as move_token
from cluster.operator_rig import Pool, operator
from cluster.programs import programs_dir
from waiting import wait_until

CHART = Path(__file__).parents[2] / "charts" / "osworld-env"
RELEASE = "osw"


def helm(plane: ControlPlane, namespace: str, *argv: str) -> str:
    command = [str(programs_dir() / "helm"), "--kubeconfig", str(plane.kubeconfig), "--namespace", namespace, *argv]
    environment = {**os.environ, "HELM_CACHE_HOME": str(plane.folder), "HELM_CONFIG_HOME": str(plane.folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def release(plane: ControlPlane, namespace: str) -> Iterator[str]:
    """A release in a namespace of its own. The definition that the session applied becomes the chart's."""
    head: dict[str, Any] = {
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": namespace},
    }
    crd = "osworldenvs.osworld.dev"
    plane.kubectl("patch", "crd", crd, "--type=merge", "-p", json.dumps({"metadata": head}))
    yield helm(plane, namespace, "install", RELEASE, str(CHART))
    helm(plane, namespace, "uninstall", RELEASE, "--ignore-not-found")


def test_it_says_what_comes_next_and_its_operator_runs(plane: ControlPlane, namespace: str, release: str) -> None:
    assert "kubectl apply -f examples/pools/xvfb.yaml" in release
    deployment = f"/apis/apps/v1/namespaces/{namespace}/deployments/osw-osworld-env-operator"
    wait_until(lambda: plane.get(deployment)["status"].get("readyReplicas") == 1, 60, "the operator's pod, restricted")


def test_its_rights_are_enough_and_no_more(plane: ControlPlane, namespace: str, release: str) -> None:
    """The real operator with the token of the chart's service account keeps a pool from its creation to its end."""
    account = "osw-osworld-env-operator"
    token = plane.kubectl("create", "token", account, "-n", namespace).strip()
    config = json.loads(plane.kubeconfig.read_text())
    config["users"][0]["user"]["token"] = token
    path = plane.folder / "operator.kubeconfig"
    path.write_text(json.dumps(config))
    pool = Pool(plane, namespace)
    lease = {"OSWORLD_OPERATOR_NAMESPACE": namespace, "OSWORLD_OPERATOR_LEASE": account}
    with played_env_servers(plane), operator(plane, path, **lease) as running:
        pool.apply(replicas=2, spares=1)
        pool.wait_whole(2, 1)
        name = pool.pod(0)["metadata"]["name"]
        plane.kubectl("delete", "pod", "-n", namespace, name, "--force", "--grace-period=0")
        wait_until(lambda: pool.served().get(0, {}).get("metadata", {}).get("name") not in (None, name), 60, "a move")
        pool.wait_whole(2, 1)
        assert ask(running, pool, move_token(pool), holder(pool)).status_code == 200, "a router is heard"
        pool.scale(1)
        pool.wait_whole(1, 1)
        assert "forbidden" not in running.log.read_text().lower()
    asked = ("auth", "can-i", f"--as=system:serviceaccount:{namespace}:{account}", "-n", namespace)
    for verb, kind in (
        ("delete", "nodes"),
        ("list", "secrets"),
        ("delete", "deployments"),
        ("get", "configmaps"),
    ):
        assert plane.kubectl(*asked, verb, kind, is_fine=False).strip().endswith("no")


def test_an_upgrade_keeps_pools_and_a_removal_keeps_them_too(plane: ControlPlane, namespace: str, release: str) -> None:
    pool = Pool(plane, namespace)
    pool.apply(replicas=0, spares=0)
    uid = pool.object["metadata"]["uid"]
    helm(plane, namespace, "upgrade", RELEASE, str(CHART), "--set", "logLevel=DEBUG")
    assert pool.object["metadata"]["uid"] == uid
    helm(plane, namespace, "uninstall", RELEASE)
    assert pool.object["metadata"]["uid"] == uid
    assert plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/osw-osworld-env-operator") is None
