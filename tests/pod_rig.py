"""An xvfb env pod without a cluster: its rendered manifest, carried out as a kubelet does, with bubblewrap as runtime.

The two containers have PID, mount and UTS namespaces of their own; network and IPC are the pod's. Users, groups,
volumes, variables and the read-only root are those of the manifest; capabilities are gone and cannot come back. What
stands in for the images is the machine's /usr, the checkout, and the built runtimes.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import httpx
import psutil

from osworld_contract.crd import OSWorldEnv
from osworld_contract.places import SYSTEM_CACHE, worker_venv_dir
from osworld_env.ports import free_port
from osworld_envpod.desktops.xvfb.host import read_host_facts
from osworld_envpod.desktops.xvfb.runtime import find_runtime
from osworld_envpod.desktops.xvfb.sandbox_argv import ETC_FILES, GUEST_ROOT, OWN_ETC_FILES, SUDO, system_argv
from osworld_operator.children import ChildSettings, env_pod
from pools import pool
from trainer_client import TrainerClient
from waiting import wait_until

TOKEN: Final = "pods-token"
SECRET: Final = "a-secret-that-no-desktop-may-see"
CHECKOUT: Final = Path(__file__).parents[1]
SETTINGS: Final = ChildSettings("env", "desktop", "router", "osworld-system")
READY_DEADLINE_S: Final = 90.0
END_DEADLINE_S: Final = 30.0
NODES_FOLDER_MODE: Final = 0o2777
"""Of an emptyDir with an fsGroup."""


class Pod:
    """One running pod. A context manager: leaving ends every process of it."""

    def __init__(self, folder: Path, *, processes_max: int = 1000) -> None:
        env = pool(
            episode={"stepPause": "100ms"},
            tasks={"secretRef": {"name": "openai"}},
            podTemplate={"env": [{"name": "OSWORLD_LOG_LEVEL", "value": "DEBUG"}]},
        )
        env["metadata"] |= {"uid": "u-1", "namespace": "train"}
        self._manifest = env_pod(OSWorldEnv.model_validate(env), SETTINGS, 0)["spec"]
        self._folder = folder
        self._processes_max = processes_max
        self._containers = {container["name"]: container for container in self._manifest["containers"]}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = contextlib.ExitStack()
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._namespaces = 0
        self._runtime = asyncio.run(find_runtime())

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop)
            stack.callback(self._runtime.release)
            self._make_volumes()
            self._make_namespaces(stack)
            self.start("server")
            self.start("desktop")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _stop(self) -> None:
        for name in list(self._running):
            self.kill(name)

    def volume(self, name: str) -> Path:
        """Return a volume's folder on this machine."""
        return self._folder / name

    def log(self, name: str) -> str:
        """Return what a container wrote."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def wait_ready(self) -> Self:
        """Wait until the pod is ready, as its readiness probe sees it."""

        def is_ready() -> bool:
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}:\n{self.log(name)[-3000:]}")
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{self.url}/readyz", timeout=5).is_success
            return False

        wait_until(is_ready, READY_DEADLINE_S, "a ready pod")
        return self

    def execute(self, script: str, deadline_s: float = 60.0) -> str:
        """Run `script` in the desktop's bash, by its guest agent, and return what it printed."""
        (socket,) = (self._folder / "run").glob("x-*/*/agent")
        body = {"command": ["/bin/bash", "-c", script], "shell": False, "timeout": deadline_s}
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=deadline_s + 5) as client:
            reply = client.post("http://guest/execute", json=body)
        assert reply.is_success, reply.text
        return str(reply.json()["output"])

    def client(self) -> TrainerClient:
        """Return the trainer's worker for this pod."""
        return TrainerClient(self.url, ("job", TOKEN))

    def kill(self, name: str) -> None:
        """End a container as a crash or the kernel does: SIGKILL to its PID 1."""
        process = self._running.pop(name)
        if process.poll() is None:
            for pid_1 in self._tops(process.pid):
                pid_1.kill()
        try:
            process.wait(END_DEADLINE_S)
        finally:
            process.kill()

    def await_end(self, name: str) -> int:
        """Return the exit code of a container that ends by itself."""
        return self._running.pop(name).wait(END_DEADLINE_S)

    def ask_to_end(self, name: str) -> None:
        """Send SIGTERM to a container's PID 1, as a kubelet does."""
        for pid_1 in self._tops(self._running[name].pid):
            pid_1.send_signal(signal.SIGTERM)

    def processes(self, name: str) -> list[psutil.Process]:
        """Return every process of a container, PID 1 first."""
        tops = self._tops(self._running[name].pid)
        return [process for top in tops for process in (top, *top.children(recursive=True))]

    @staticmethod
    def _tops(runtime_pid: int) -> list[psutil.Process]:
        """Return the container's PID 1: what bwrap started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(runtime_pid).children()
        return []

    def start(self, name: str) -> None:
        """Start a container."""
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*self._namespace_argv(), *self._argv(name)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )

    def _make_volumes(self) -> None:
        group = self._manifest["securityContext"]["fsGroup"]
        for volume in self._manifest["volumes"]:
            path = self._folder / volume["name"]
            path.mkdir()
            self._give(path, group, NODES_FOLDER_MODE)
        self._folder.joinpath("termination-log").touch()
        self._give(self._folder / "termination-log", 0, 0o666)

    @staticmethod
    def _give(path: Path, group: int, mode: int) -> None:
        if os.geteuid() == 0:
            os.chown(path, 0, group)
        path.chmod(mode)

    def _make_namespaces(self, stack: contextlib.ExitStack) -> None:
        """Start what holds the pod's network: a relay from a port of this machine to the env server's."""
        relay = self._folder / "relay"
        status_out, status_in = os.pipe()
        inner = ["socat", f"UNIX-LISTEN:{relay},fork,mode=600", "TCP:127.0.0.1:18082"]
        outer = ["socat", f"TCP-LISTEN:{self._port},bind=127.0.0.1,fork,reuseaddr", f"UNIX-CONNECT:{relay}"]
        holder = ["bwrap", "--dev-bind", "/", "/", "--unshare-net", "--unshare-ipc", "--die-with-parent"]
        for argv in ([*holder, "--json-status-fd", str(status_in), "--", *inner], outer):
            process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, pass_fds=[status_in], start_new_session=True)
            stack.callback(process.wait, END_DEADLINE_S)
            stack.callback(process.kill)
        os.close(status_in)
        with os.fdopen(status_out) as status:
            self._namespaces = int(json.loads(status.readline())["child-pid"])
        wait_until(relay.exists, 30, "the relay")

    def _namespace_argv(self) -> list[str]:
        as_user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", f"--target={self._namespaces}", *as_user, "--net", "--ipc", "--"]

    def _argv(self, name: str) -> list[str]:
        container = self._containers[name]
        context = self._manifest["securityContext"] | container["securityContext"]
        assert context["readOnlyRootFilesystem"] and context["capabilities"] == {"drop": ["ALL"]}
        user, group = context["runAsUser"], context["runAsGroup"]
        hostname = self._manifest["hostname"]
        argv = ["bwrap", "--unshare-pid", "--unshare-uts", "--hostname", hostname, "--as-pid-1", "--die-with-parent"]
        drop = []
        if os.geteuid() == 0:
            ids = ["--reuid", str(user), "--regid", str(group), "--groups", str(context["fsGroup"])]
            drop = ["setpriv", *ids, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
        else:
            argv += ["--unshare-user", "--uid", str(user), "--gid", str(group), "--cap-drop", "ALL"]
        argv += ["--clearenv", "--setenv", "PATH", "/usr/sbin:/usr/bin", "--setenv", "LANG", "C.UTF-8"]
        for variable in container.get("env", ()):
            if (value := _value(variable)) is not None:
                argv += ["--setenv", variable["name"], value]
        argv += [*system_argv(read_host_facts()), "--proc", "/proc", "--dev", "/dev", "--mqueue", "/dev/mqueue"]
        for mount in container["volumeMounts"]:
            how = "--ro-bind" if mount.get("readOnly") else "--bind"
            argv += _bind(self._folder / mount["name"], mount["mountPath"], how)
        argv += _bind(self._folder / "termination-log", "/dev/termination-log", "--bind")
        argv += self._image(name)  # last: the checkout may lie where a volume is mounted
        return [*argv, "--remount-ro", "/", "--chdir", "/", "--", *drop, *self._command(name)]

    def _image(self, name: str) -> list[str]:
        if name == "server":
            folders: dict[Path | str, Path | str]
            folders = {"/etc": "/etc", CHECKOUT: CHECKOUT, worker_venv_dir().resolve(): SYSTEM_CACHE / "task-worker"}
            return [part for source, target in folders.items() for part in _bind(source, target)]
        code = self._runtime.code
        argv = [part for file in ETC_FILES for part in _bind(f"/etc/{file}", f"/etc/{file}", "--ro-bind-try")]
        argv += [part for file in OWN_ETC_FILES for part in _bind(code / "etc" / file, f"/etc/{file}")]
        argv += _bind("/var/cache/fontconfig", "/var/cache/fontconfig", "--ro-bind-try")
        argv += [*_bind(self._runtime.venv, GUEST_ROOT), *_bind(code, f"{GUEST_ROOT}/code")]
        shim = code / "osworld_guest" / "data" / "bin" / "sudo"
        return [*argv, *_bind(shim, SUDO)] if SUDO.exists() else argv

    def _command(self, name: str) -> list[str]:
        if name == "server":
            return [sys.executable, *self._containers[name]["args"][1:]]
        return [
            *(f"{GUEST_ROOT}/bin/python", "-s", "-m", "osworld_guest.container"),
            *("--processes-max", str(self._processes_max)),
        ]


def _bind(source: Path | str, target: Path | str, how: str = "--ro-bind") -> list[str]:
    """Return what mounts `source` at `target`, whose parents are made for all to enter."""
    parents = [str(parent) for parent in reversed(Path(target).parents) if parent != Path("/")]
    made = [part for parent in parents for part in ("--perms", "0755", "--dir", parent)]
    return [*made, how, str(source), str(target)]


def _value(variable: dict[str, Any]) -> str | None:
    """Return a variable's value; None where it is of a key that its Secret need not have, and does not."""
    source = variable.get("valueFrom", {})
    if "secretKeyRef" in source:
        if variable["name"] == "OSWORLD_TOKEN":
            return TOKEN
        return SECRET if source["secretKeyRef"]["key"] == "OPENAI_API_KEY" else None
    return "u-1" if source else str(variable["value"])


@contextlib.contextmanager
def running_pod(folder: Path, **options: int) -> Iterator[Pod]:
    """Give a ready pod; where the test fails, its logs are shown."""
    with Pod(folder, **options) as pod:
        try:
            yield pod.wait_ready()
        except BaseException:
            for name in ("server", "desktop"):
                sys.stderr.write(f"--- {name}\n{pod.log(name)[-6000:]}\n")
            raise
