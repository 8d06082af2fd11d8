"""The command line at the test's control plane, and a real router behind the pods that KWOK plays as routers."""

import base64
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.control_plane import ControlPlane
from cluster.operator_rig import Pool
from osworld_contract.kube_names import LABEL_COMPONENT, LABEL_POOL
from osworld_contract.names import ROUTER_PORT
from osworld_env.ports import free_port
from server_process import ServerProcess, clean_environment
from waiting import wait_until

DEADLINE_S = 60


class Commands:
    """``osworld-env pool`` in the namespace of a pool."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path) -> None:
        self._environment = clean_environment(KUBECONFIG=str(plane.kubeconfig), NO_COLOR="1")
        self._namespace = namespace
        self._folder = folder

    def run(self, *arguments: str, exit_code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end, which must be `exit_code`."""
        done = subprocess.run(
            self._argv(arguments),
            env=self._environment,
            cwd=self._folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == exit_code, done
        assert "Traceback" not in done.stderr
        return done

    def use(self, kubeconfig: Path) -> None:
        """Take another kubeconfig."""
        self._environment["KUBECONFIG"] = str(kubeconfig)

    def json(self, *arguments: str) -> Any:
        """Run a command, and return what it prints as JSON."""
        return json.loads(self.run(*arguments, "-o", "json").stdout)

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[Path]:
        """Run a command during the block; gives the file with what it prints."""
        path = self._folder / f"{'-'.join(arguments)}.out".replace("/", "_")
        with path.open("wb") as out:
            process = subprocess.Popen(
                self._argv(arguments), env=self._environment, cwd=self._folder, stdout=out, stderr=subprocess.STDOUT
            )
            try:
                yield path
            finally:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()
                process.wait(10)

    def _argv(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "osworld_env", "pool", *arguments, "-n", self._namespace]


@contextlib.contextmanager
def router_of(pool: Pool, folder: Path, port: int | None = None) -> Iterator[ServerProcess]:
    """Run the pool's router for real, and lead port-forwards to its played pods there."""
    data = pool.plane.get(f"/api/v1/namespaces/{pool.namespace}/secrets/{pool.name}-tokens")["data"]
    port = port or free_port()
    variables = clean_environment(
        KUBECONFIG=str(pool.plane.kubeconfig),
        OSWORLD_ROUTER_POOL=pool.name,
        OSWORLD_ROUTER_NAMESPACE=pool.namespace,
        OSWORLD_ROUTER_PORT=str(port),
        OSWORLD_TOKEN=_plain(data["token"]),
        OSWORLD_UPSTREAM_TOKEN=_plain(data["upstream-token"]),
    )
    with ServerProcess("osworld_router", folder, variables, port) as process:
        process.wait_ready()
        for name in wait_until(lambda: _router_pods(pool), DEADLINE_S, "the router's pods"):
            forward = {"ports": [ROUTER_PORT], "target": {"address": "127.0.0.1", "port": port}}
            say_to_kwok(pool, "PortForward", name, {"forwards": [forward]})
        yield process


def say_to_kwok(pool: Pool, kind: str, pod: str, spec: dict[str, Any]) -> None:
    """Tell KWOK what to do with a pod's ports or logs."""
    head = {"name": pod, "namespace": pool.namespace}
    body = {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": kind, "metadata": head, "spec": spec}
    pool.plane.kubectl("apply", "-f", "-", text=json.dumps(body))


def _router_pods(pool: Pool) -> list[str]:
    selector = f"{LABEL_POOL}={pool.name},{LABEL_COMPONENT}=router"
    items = pool.plane.get(f"/api/v1/namespaces/{pool.namespace}/pods?labelSelector={selector}")["items"]
    is_all_ready = all(item.get("status", {}).get("phase") == "Running" for item in items)
    return [item["metadata"]["name"] for item in items] if len(items) == 2 and is_all_ready else []


def _plain(text: str) -> str:
    return base64.b64decode(text).decode()
