"""The chart at a real API server: installed, upgraded, removed; and its rights are enough for the real operator."""

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cli_rig import Commands
from cluster.control_plane import ControlPlane, control_plane
from cluster.env_servers import played_env_servers
from cluster.helm import CHART, EVERYTHING, RELEASE, helm
from cluster.move_wishes import ask, holder
from cluster.move_wishes import token as move_token
from cluster.operator_rig import Pool, operator
from cluster.programs import programs_dir
from osworld_contract.kube_names import CRD_NAME
from waiting import wait_until


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
    wait_until(lambda: plane.get(deployment)["status"].get("readyReplicas") == 2, 60, "the operator's pods, restricted")


def test_the_api_server_takes_all_that_it_renders(
    plane: ControlPlane, namespace: str, monitoring: None, tmp_path: Path
) -> None:
    """With every part switched on, in namespaces at the level ``restricted``, unknown fields refused."""
    values = copy.deepcopy(EVERYTHING)
    values["operator"]["watchNamespaces"] = [namespace]
    values["test"]["namespace"] = namespace
    values["monitoring"]["podMonitor"]["pools"][0]["namespace"] = namespace
    rendered = helm(plane, namespace, "template", RELEASE, str(CHART), "--values", "-", text=json.dumps(values))
    objects = [item for item in yaml.safe_load_all(rendered) if item]
    argv = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-")
    said = plane.kubectl(*argv, text=rendered)
    assert said.count("serverside-applied (server dry run)") == len(objects), said
    assert {item["kind"] for item in objects} >= {"DaemonSet", "Pod", "PodMonitor", "PrometheusRule", "ConfigMap"}


@pytest.fixture
def monitoring(plane: ControlPlane) -> Iterator[None]:
    """Definitions of the Prometheus operator's kinds, which take anything."""
    group, names = "monitoring.coreos.com", {"podmonitors": "PodMonitor", "prometheusrules": "PrometheusRule"}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    for plural, kind in names.items():
        spec = {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        }
        head = {"name": f"{plural}.{group}"}
        kind_of_kinds = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
        plane.kubectl("apply", "-f", "-", text=json.dumps({**kind_of_kinds, "metadata": head, "spec": spec}))
    crds = [f"crd/{plural}.{group}" for plural in names]
    plane.kubectl("wait", "--for=condition=Established", *crds, "--timeout=30s")
    yield
    plane.kubectl("delete", *crds)


def test_an_upgrade_adds_a_field_of_the_definition_to_pools_that_are_there(tmp_path: Path) -> None:
    """A chart whose definition lacks a field, then this one, by helm alone; a control plane that has no definition."""
    older = tmp_path / "older"
    shutil.copytree(CHART, older)
    file = older / "files" / "osworldenvs.osworld.dev.yaml"
    definition = yaml.safe_load(file.read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del schema["properties"]["update"]
    file.write_text(yaml.safe_dump(definition))
    with control_plane(programs_dir(), tmp_path / "plane", controllers=False) as plane:
        helm(plane, "system", "install", RELEASE, str(older), "--create-namespace")
        plane.kubectl("wait", "--for=condition=Established", f"crd/{CRD_NAME}", "--timeout=30s")
        pool = Pool(plane, "default")
        pool.apply(replicas=3)
        before = pool.object
        assert "update" not in before["spec"]
        helm(plane, "system", "upgrade", RELEASE, str(CHART))
        # The API server takes a definition over a moment after it has accepted it.
        update = wait_until(lambda: pool.object["spec"].get("update"), 30, "the field's default")
        assert update == {"strategy": "WhenIdle", "maxUnavailable": "10%"}
        assert pool.object["metadata"]["uid"] == before["metadata"]["uid"]
        assert pool.object["spec"] == {**before["spec"], "update": update}


def commands_of(notes: str, way: str) -> str:
    """Return what the notes say under a Service's type: the paragraph after its name, without the tunnel itself."""
    lines = notes[notes.index(way) :].split("\n\n")[1].splitlines()
    return "\n".join(line.strip() for line in lines if "port-forward" not in line)


WAYS = {"ClusterIP": "tunnel", "NodePort": "nodeport", "LoadBalancer": "loadbalancer"}
"""Of a Service's type, as ``pool url`` names them."""


@pytest.mark.parametrize(
    ("type_", "ingress"),
    [
        ("ClusterIP", {}),
        ("NodePort", {}),
        ("LoadBalancer", {"ip": "203.0.113.9"}),
        ("LoadBalancer", {"hostname": "lb.example.com"}),
    ],
)
def test_its_notes_give_the_trainers_line(
    plane: ControlPlane, namespace: str, release: str, tmp_path: Path, type_: str, ingress: dict[str, str]
) -> None:
    """The same as the command that needs more than kubectl."""
    with operator(plane):
        Pool(plane, namespace).apply(replicas=0, spares=0, router={"service": {"type": type_}})
        for kind, name in (("services", "desks-router"), ("secrets", "desks-tokens")):
            path = f"/api/v1/namespaces/{namespace}/{kind}/{name}"
            wait_until(lambda path=path: plane.get(path), 60, name)  # type: ignore[misc]  # bound at once
    if ingress:
        status = json.dumps({"status": {"loadBalancer": {"ingress": [ingress]}}})
        given = ("--subresource=status", "--type=merge", "-p", status)
        plane.kubectl("patch", "-n", namespace, "service/desks-router", *given)
    config = json.loads(plane.kubeconfig.read_text())
    config["contexts"][0]["context"]["namespace"] = namespace
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    variables = {
        "HOME": str(tmp_path),
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "PATH": f"{plane.programs}:{os.environ['PATH']}",
    }
    argv = ["bash", "-euc", commands_of(release, type_)]
    done = subprocess.run(argv, env=variables, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("remote_server_url: http://job:")
    assert done.stdout == Commands(plane, namespace, tmp_path).run("url", "desks", "--via", WAYS[type_]).stdout


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
        assert "forbidden: User" not in running.log.read_text(), "another namespace that is being ended is no lack"
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
