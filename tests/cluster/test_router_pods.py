"""A real router that watches a pool's pods at a real API server."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.control_plane import ControlPlane
from cluster.operator_rig import Pool
from cluster.watching_router import DEADLINE_S, WatchingRouter, watching_router
from waiting import wait_until


@pytest.fixture
def router(plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[WatchingRouter]:
    with watching_router(plane.kubeconfig, namespace, tmp_path) as running:
        wait_until(lambda: running.get("/readyz").status_code == 200, DEADLINE_S, "the first list")
        yield running


def make_pod(plane: ControlPlane, namespace: str, name: str, **labels: str) -> None:
    """Create an env pod, which KWOK makes ready and gives an address."""
    ours = {"osworld.dev/pool": "desks", "app.kubernetes.io/component": "env"}
    ours |= {f"osworld.dev/{key.replace('_', '-')}": value for key, value in labels.items()}
    secure = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": ours},
        "spec": {"containers": [{"name": "server", "image": "local/env:1", "securityContext": secure}]},
    }
    plane.kubectl("apply", "-n", namespace, "-f", "-", text=json.dumps(body))


def address(plane: ControlPlane, namespace: str, name: str) -> str:
    found = plane.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
    return f"http://{found['status']['podIP']}:18082" if "podIP" in found.get("status", {}) else ""


def test_pods_become_envs_move_and_go(plane: ControlPlane, namespace: str, router: WatchingRouter) -> None:
    assert router.envs() == {}
    make_pod(plane, namespace, "desks-0", env_idx="0", env_epoch="1")
    make_pod(plane, namespace, "desks-1")
    wait_until(lambda: set(router.envs()) == {0}, DEADLINE_S, "env 0")
    assert router.envs()[0] == (address(plane, namespace, "desks-0"), 1)
    label = ("label", "-n", namespace, "--overwrite", "pod")
    plane.kubectl(*label, "desks-0", "osworld.dev/env-idx-", "osworld.dev/env-epoch-")
    plane.kubectl(*label, "desks-1", "osworld.dev/env-idx=0", "osworld.dev/env-epoch=2")
    wait_until(lambda: router.envs().get(0) == (address(plane, namespace, "desks-1"), 2), DEADLINE_S, "the move")
    plane.kubectl("delete", "pod", "-n", namespace, "desks-1", "--force", "--grace-period=0")
    wait_until(lambda: router.envs() == {}, DEADLINE_S, "the end of env 0")
    assert answer(router, 0) == (503, "env_down")


def test_an_api_server_that_is_away_leaves_the_last_state(
    plane: ControlPlane, namespace: str, router: WatchingRouter
) -> None:
    """What changes while the router cannot see it, a deletion too, is there once it can."""
    make_pod(plane, namespace, "desks-0", env_idx="0", env_epoch="1")
    make_pod(plane, namespace, "desks-1", env_idx="1", env_epoch="2")
    wait_until(lambda: set(router.envs()) == {0, 1}, DEADLINE_S, "both envs")
    plane.stop("kube-apiserver", signal.SIGKILL)
    try:
        wait_until(lambda: "the last good state stays in use" in router.log, DEADLINE_S, "a line in the log")
        assert set(router.envs()) == {0, 1}
        assert router.get("/readyz").status_code == 200
    finally:
        plane.start_api_server()
    plane.kubectl("delete", "pod", "-n", namespace, "desks-0", "--force", "--grace-period=0")
    wait_until(lambda: set(router.envs()) == {1}, DEADLINE_S, "the end of env 0")


def test_a_router_without_rights_says_so(plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    plane.kubectl("create", "serviceaccount", "nobody", "-n", namespace)
    token = plane.kubectl("create", "token", "nobody", "-n", namespace).strip()
    config: dict[str, Any] = json.loads(plane.kubeconfig.read_text())
    config["users"][0]["user"]["token"] = token
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    with watching_router(path, namespace, tmp_path) as router:
        wait_until(lambda: "this router may not list pods" in router.log, DEADLINE_S, "the reason in the log")
        assert router.get("/readyz").status_code == 503
        assert "Traceback" not in router.log


def test_an_env_that_a_router_has_not_seen_yet_is_down_and_not_unknown(
    plane: ControlPlane, namespace: str, router: WatchingRouter
) -> None:
    """It has started while the pod was away: the pool says how many envs there are to be."""
    make_pod(plane, namespace, "desks-0", env_idx="0", env_epoch="1")
    wait_until(lambda: set(router.envs()) == {0}, DEADLINE_S, "env 0")
    assert answer(router, 1) == (404, "unknown_env")
    Pool(plane, namespace).apply(replicas=2)
    page = httpx.get(f"{router.url}/envs/1/health", timeout=30, trust_env=False)
    assert (page.status_code, page.json()["fault"]["reason"]) == (503, "env_down"), "of a page as well"
    assert answer(router, 1) == (503, "env_down")
    assert answer(router, 2) == (404, "unknown_env")


def answer(router: WatchingRouter, env_idx: int) -> tuple[int, str]:
    """Return status and reason of the fault of a step."""
    url, version = f"{router.url}/envs/{env_idx}/env/step", {"X-Osworld-Client": "v2"}
    reply = httpx.post(url, json={}, headers=version, timeout=30, trust_env=False)
    return reply.status_code, reply.json()["fault"]["reason"]
