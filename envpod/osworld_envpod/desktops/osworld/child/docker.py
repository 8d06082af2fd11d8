"""Machines in containers: desktop-env's DockerProvider, with what it lacks put around it and nothing of it rewritten.

What is put around: the ports are bound to the loopback address, the container is labelled so that one that was left
can be told from one in use, its disk's volume goes with it, KVM is passed in where the env server says that it works,
and a guest may take longer than 300 s.
"""

import contextlib
import fcntl
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker as engine  # type: ignore[import-untyped]  # as desktop-env's
import requests
from desktop_env.providers.docker import provider as desktop_env_docker  # type: ignore[import-not-found]

from .service import LOOK_EVERY_S, MachineError

LABEL = "osworld-env.lock"
"""Value: the file that the env server of a container holds locked while it lives."""
LOOPBACK = "127.0.0.1"
PORT_LOCK_S = 300.0
"""desktop-env waits 10 s for its lock; the starts of many env servers at once take longer."""
START_ATTEMPTS = 5
"""desktop-env looks for free ports, and binds them a moment later: another program may have been faster."""
PROGRESS_EVERY_S = 5.0
LAST_LINES = 5
NOT_FOUND, CONFLICT = 404, 409

log = logging.getLogger(__name__)
Tell = Callable[..., None]


class Machine:
    """One container. See `service.Machine`."""

    look_every_s = LOOK_EVERY_S

    def __init__(self, options: dict[str, Any], tell: Tell) -> None:
        self._options = options
        self._tell = tell
        self._client = _connect()
        self._lock = threading.Lock()
        self._is_ending = False
        self._made: list[Any] = []
        self._provider: Any = None

    def boot(self) -> dict[str, Any]:
        """Start a container, and wait until its guest shows a screen."""
        self._sweep()
        self._pull()
        desktop_env_docker.LOCK_TIMEOUT = PORT_LOCK_S
        self._provider = _Provider(self)
        self._provider.environment = dict(self._options["environment"])
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                self._provider.start_emulator(self._options["disk"], True, "Ubuntu")
                break
            except engine.errors.APIError as error:
                if attempt == START_ATTEMPTS or "already allocated" not in str(error):
                    raise _refused(error) from error
                self._remove()
        host, server, chromium, vnc, vlc = self._provider.get_ip_address(self._options["disk"]).split(":")
        return {
            "id": self._provider.container.name,
            "host": LOOPBACK if host == "localhost" else host,
            "server_port": int(server), "chromium_port": int(chromium), "vnc_port": int(vnc), "vlc_port": int(vlc),
        }  # fmt: skip

    def pause(self) -> None:
        """Freeze the container's processes."""
        self._provider.container.pause()

    def resume(self) -> None:
        """Let them go on."""
        self._provider.container.unpause()

    def lost(self) -> str | None:
        """Return how the container ended, None while it runs."""
        container = self._provider.container
        try:
            container.reload()
        except engine.errors.NotFound:
            return f"the container {container.name} was removed"
        except (engine.errors.DockerException, requests.exceptions.RequestException) as error:
            return f"the Docker engine does not answer any more ({type(error).__name__})"
        return None if container.status in ("running", "paused") else _end_of(container)

    def end(self) -> None:
        """Remove the container, and none is made any more."""
        self._is_ending = True
        self._remove()

    def make(self, *arguments: Any, **more: Any) -> Any:
        """Stand in for ``client.containers.run`` of desktop-env's code."""
        options = self._options
        more["ports"] = {inside: (LOOPBACK, outside) for inside, outside in more["ports"].items()}
        more["labels"] = {LABEL: options["lock"]}
        device = options["kvm_device"]
        more["devices"] = [device] if device else []
        more["environment"] = dict(more["environment"]) | ({} if device else {"KVM": "N"})
        del more["detach"]
        with self._lock:
            if self._is_ending:
                raise MachineError("desktop_start_failed", "the env server ends")
            container = self._client.containers.create(options["image"], **more)
            self._made.append(container)
        container.start()
        self._tell("progress", message=f"Started container {container.name} from {options['image']} (KVM: {device})")
        return _Container(container)

    def running(self) -> list[Any]:
        """Return the engine's running containers."""
        return list(self._client.containers.list(ignore_removed=True))

    def watch(self, container: Any) -> None:
        """Raise where `container`, whose guest is awaited, has ended."""
        container.reload()
        if container.status not in ("running", "paused"):
            raise MachineError(
                "desktop_start_failed", f"the guest did not come up: {_end_of(container)}", _exit_code(container)
            )

    def _remove(self) -> None:
        with self._lock:
            for container in self._made:
                _Container(container).remove()
            self._made.clear()

    def _sweep(self) -> None:
        """Remove the containers of env servers that are gone: after a power cut nothing else would."""
        for container in self._client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
            if _is_left(Path(container.labels[LABEL]), is_running=container.status in ("running", "paused")):
                try:
                    container.remove(force=True, v=True)
                    log.info("removed the container %s, which an env server that is gone had left", container.name)
                except engine.errors.APIError as error:
                    log.warning("the container %s cannot be removed: %s", container.name, _words(error))

    def _pull(self) -> None:
        """Have the engine fetch the image where it has none, and show how far it is."""
        name = self._options["image"]
        with contextlib.suppress(engine.errors.ImageNotFound):
            self._client.images.get(name)
            return
        log.info("the Docker engine fetches the image %s", name)
        try:
            self._show(self._client.api.pull(*_reference(name), stream=True, decode=True))
            self._client.images.get(name)
        except engine.errors.DockerException as error:
            raise MachineError(
                "image_unavailable", f"the Docker engine cannot fetch the image {name}: {_words(error)}"
            ) from error

    def _show(self, lines: Any) -> None:
        have: dict[str, tuple[int, int]] = {}
        told_s = 0.0
        for line in lines:
            if error := line.get("error"):
                raise MachineError("image_unavailable", f"the Docker engine cannot fetch the image: {error}")
            detail = line.get("progressDetail") or {}
            if line.get("status") == "Downloading" and "current" in detail:
                have[line["id"]] = (detail["current"], detail.get("total", 0))
            if have and time.monotonic() > told_s + PROGRESS_EVERY_S:
                told_s = time.monotonic()
                parts = [sum(numbers) >> 20 for numbers in zip(*have.values(), strict=True)]
                self._tell("progress", message=f"{self._options['image']}: {parts[0]} of {parts[1]} MiB fetched")


class _Provider(desktop_env_docker.DockerProvider):  # type: ignore[misc]  # desktop-env has no types
    """desktop-env's, over our client and with our deadline."""

    def __init__(self, machine: Machine) -> None:
        super().__init__("")
        self.client = _Client(machine)
        self._machine = machine

    def _wait_for_vm_ready(self, timeout: int = 300) -> Any:
        ends_s = time.monotonic() + self._machine._options["boot_timeout_s"]
        while time.monotonic() < ends_s:
            self._machine.watch(self.container)
            try:
                return super()._wait_for_vm_ready(timeout=desktop_env_docker.RETRY_INTERVAL)
            except TimeoutError:
                continue
        raise MachineError(
            "guest_timeout", f"the guest showed no screen in {self._machine._options['boot_timeout_s']:g} s"
        )


class _Container:
    """A container whose end, as desktop-env orders it, takes no 10 s, and its disk's volume with it."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def stop(self) -> None:
        """Do nothing: `remove` follows, and what the guest would write in the meantime is thrown away."""

    def remove(self) -> None:
        """Kill and remove it, if it is there."""
        try:
            self._container.remove(force=True, v=True)
        except engine.errors.APIError as error:
            if error.status_code not in (NOT_FOUND, CONFLICT):  # the latter: it is being removed
                raise


class _Client:
    """What desktop-env uses of a Docker client: ``containers.run`` and ``containers.list``."""

    def __init__(self, machine: Machine) -> None:
        self.containers = self
        self.run = machine.make
        self.list = machine.running


def _connect() -> Any:
    try:
        return engine.from_env()
    except engine.errors.DockerException as error:
        text = str(error)
        if "Permission" in text:
            message = (
                "the Docker engine does not let this user in: add it to the group docker"
                " (sudo usermod -aG docker $USER) and log in again"
            )
        elif "FileNotFoundError" in text or "refused" in text:
            message = (
                "no Docker engine answers: start it (sudo systemctl start docker), or install it (docs/providers.md)"
            )
        else:
            message = f"the Docker engine cannot be reached: {text[:300]}"
        raise MachineError("desktop_start_failed", message) from error


def _is_left(lock: Path, *, is_running: bool) -> bool:
    """Say whether the env server that holds `lock` is gone. Where its folder cannot be seen, only what has ended is."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return not is_running
    return True


def _reference(name: str) -> tuple[str, str | None]:
    """Return repository and tag of an image's name; a digest counts as a tag."""
    last = name.rpartition("/")[2]
    if "@" in last:
        return name, None
    head, separator, tag = name.rpartition(":") if ":" in last else (name, "", "latest")
    return head if separator else name, tag


def _exit_code(container: Any) -> int | None:
    code: int | None = container.attrs.get("State", {}).get("ExitCode")
    return code


def _end_of(container: Any) -> str:
    lines: list[str] = []
    with contextlib.suppress(engine.errors.DockerException):  # removed in the meantime
        lines = container.logs(tail=LAST_LINES).decode(errors="replace").strip().splitlines()[-LAST_LINES:]
    return (
        f"the container {container.name} ended with {_exit_code(container)}: {' / '.join(lines)[:500] or 'no output'}"
    )


def _refused(error: Exception) -> MachineError:
    words = _words(error)
    reason = "disk_full" if "no space left" in words.lower() else "desktop_start_failed"
    return MachineError(reason, f"the Docker engine refuses: {words}")


def _words(error: Exception) -> str:
    return str(getattr(error, "explanation", None) or error)[:500]
