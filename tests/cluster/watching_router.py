"""The router as a process that watches a pool's pods at the test's API server."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from waiting import wait_until

DEADLINE_S = 60


class WatchingRouter:
    """The router's process."""

    def __init__(self, kubeconfig: Path, namespace: str, folder: Path, **variables: str) -> None:
        self.log_path = folder / "router.log"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("OSWORLD_")},
            "KUBECONFIG": str(kubeconfig),
            "OSWORLD_ROUTER_POOL": "desks",
            "OSWORLD_ROUTER_NAMESPACE": namespace,
            "OSWORLD_ROUTER_PORT": "0",
            **variables,
        }
        with self.log_path.open("wb") as log:
            argv = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "osworld_router"]
            self.process = subprocess.Popen(argv, env=environment, cwd=folder, stderr=log)
        self.url = wait_until(self._listening, DEADLINE_S, "the router's port")

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def _listening(self) -> str:
        return self.log.partition("router listening on ")[2].partition("\n")[0]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", trust_env=False, timeout=10)

    def envs(self) -> dict[int, tuple[str, int]]:
        """Return URL and epoch of each env_idx."""
        return {item["env_idx"]: (item["url"], item["epoch"]) for item in self.get("/envs").json()["envs"]}


@contextlib.contextmanager
def watching_router(kubeconfig: Path, namespace: str, folder: Path, **variables: str) -> Iterator[WatchingRouter]:
    router = WatchingRouter(kubeconfig, namespace, folder, **variables)
    try:
        yield router
    finally:
        router.process.kill()
        router.process.wait(20)
