"""Real servers as processes: started with settings of their own, awaited, stopped, their logs kept for a failure."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import httpx

from osworld_env.ports import free_port
from waiting import wait_until

READY_DEADLINE_S = 90.0
"""A desktop is ready in some seconds; a machine with two cores may be running other tests' desktops."""

STOP_DEADLINE_S = 60.0
CALL_DEADLINE_S = 300.0
"""The trainer's."""


def clean_environment(**variables: str) -> dict[str, str]:
    """Return an environment without settings of this machine's user, plus `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OSWORLD_") and name != "PROVIDER"}
    caches = {name: value for name, value in os.environ.items() if name == "OSWORLD_CACHE_DIR"}
    return kept | caches | variables


class ServerProcess:
    """One server process. A context manager: leaving stops it, and fails if it would not go."""

    def __init__(self, module: str, folder: Path, environment: dict[str, str], port: int, *arguments: str) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log_path = folder / f"{module}-{port}.log"
        self._command = [sys.executable, "-m", module, *arguments]
        self._environment = environment
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def wrap(self, *command: str) -> None:
        """Start the process by `command`, which ends in it."""
        self._command = [*command, *self._command]

    @property
    def pid(self) -> int:
        """Return the process's id."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """Return what the process has written."""
        return self.log_path.read_text(errors="replace")

    def __enter__(self) -> Self:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_ready(self, path: str = "/readyz", deadline_s: float = READY_DEADLINE_S) -> Self:
        """Wait until a reset would be taken."""

        def is_ready() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"ended with {self._process.returncode}:\n{self.log[-3000:]}")
            try:
                return httpx.get(self.url + path, timeout=5).status_code == httpx.codes.OK
            except httpx.HTTPError:
                return False

        wait_until(is_ready, deadline_s, f"{self._command[-1]} ready, log {self.log_path}")
        return self

    def restart(self, how: signal.Signals) -> Self:
        """End it by `how`, start it again, and wait until it is ready."""
        self.stop(how)
        return self.__enter__().wait_ready()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send `how` and return the exit code. Can run twice."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(how)
        return self._process.wait(STOP_DEADLINE_S)


def env_server(folder: Path, **variables: str) -> ServerProcess:
    """Return an env server with an xvfb desktop, not started."""
    port = free_port()
    settings = {"PROVIDER": "xvfb", "OSWORLD_PORT": str(port), "OSWORLD_STEP_PAUSE_S": "0.1"} | variables
    return ServerProcess("osworld_envpod", folder, clean_environment(**settings), port)


def post(server: ServerProcess, path: str, body: Any = None, **headers: str) -> httpx.Response:
    """Make one call over a fresh connection."""
    return httpx.post(server.url + path, json={} if body is None else body, headers=headers, timeout=CALL_DEADLINE_S)
