"""A real control plane on loopback: etcd, API server, and where asked for controller manager, scheduler and KWOK.

Everything ends with the process that started it, a kill included, and leaves its logs in one folder.
"""

import contextlib
import json
import secrets
import signal
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import httpx

from osworld_env.ports import PortPicker
from waiting import wait_until

READY_S: Final = 120
"""A loaded machine with two cores has taken 20 s."""
STOP_S: Final = 20
ADMIN: Final = "admin"
STAGES: Final = Path(__file__).parent / "stages.yaml"
KWOK_CRDS: Final = Path(__file__).parent / "kwok_crds.yaml"
POD_CIDR: Final = "127.1.0.1/16"
"""Pods that KWOK plays have addresses of loopback, where a test can answer for them."""


@dataclass
class ControlPlane:
    """A running control plane, or parts of it."""

    programs: Path
    """Folder of the binaries."""
    folder: Path
    """Of its data, keys, kubeconfig and logs."""
    port: int
    etcd_port: int
    token: str
    host: str = "127.0.0.1"
    """Address of the API server."""
    flags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further flags of a program, which count before those that it has anyway."""
    logs: Path | None = None
    """Where the logs go, if not to `folder`."""
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    def log(self, name: str) -> Path:
        """Return the log of a program."""
        return (self.logs or self.folder) / f"{name}.log"

    def start(self, name: str, *argv: str) -> None:
        """Start one program; it dies with the thread that called."""
        with self.log(name).open("ab") as log:
            command = ["setpriv", "--pdeathsig", "KILL", str(self.programs / name), *argv]
            command += self.flags.get(name, ())
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """End one program."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)

    def start_api_server(self) -> None:
        """Start the API server and wait until it is ready."""
        key = self.folder / "service-account.key"
        self.start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--bind-address={self.host}",
            f"--advertise-address={self.host}",
            f"--secure-port={self.port}",
            f"--cert-dir={self.folder}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            f"--service-account-signing-key-file={key}",
            f"--service-account-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged=true",  # as k3s and kubeadm start it
        )
        self.wait_ready()

    def start_controllers(self) -> None:
        """Start the controller manager."""
        self.start(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--service-account-private-key-file={self.folder / 'service-account.key'}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--secure-port=0",
            "--node-monitor-grace-period=20s",
        )

    def start_kwok(self, kubelet_port: int) -> None:
        """Start KWOK, which plays kubelets too: port-forward and logs, as objects of kwok_crds.yaml say."""
        self.kubectl("apply", "-f", str(KWOK_CRDS))
        self.kubectl("wait", "--for=condition=Established", "-f", str(KWOK_CRDS), "--timeout=30s")
        self.start(
            "kwok",
            f"--kubeconfig={self.kubeconfig}",
            f"--config={STAGES}",
            "--manage-all-nodes=true",
            f"--cidr={POD_CIDR}",
            "--node-lease-duration-seconds=40",
            "--node-ip=127.0.0.1",
            f"--node-port={kubelet_port}",
            f"--server-address=127.0.0.1:{kubelet_port}",
            "--enable-crds=PortForward,Logs",
        )

    def wait_ready(self) -> None:
        """Wait until the API server takes calls.

        Raises:
            AssertionError: It does not; the message ends with its last words.
        """

        def is_ready() -> bool:
            try:
                return self.client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_until(is_ready, READY_S, "an API server that is ready")
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n{self.log('kube-apiserver').read_text(errors='replace')[-3000:]}"
            ) from error

    @cached_property
    def client(self) -> httpx.Client:
        """Return a client with all rights."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, verify=context, headers=headers, timeout=30, trust_env=False)

    def kubectl(self, *argv: str, text: str | None = None, is_fine: bool = True) -> str:
        """Run kubectl and return what it printed, both streams.

        Raises:
            subprocess.CalledProcessError: It failed and `is_fine`.
        """
        done = subprocess.run(
            [str(self.programs / "kubectl"), f"--kubeconfig={self.kubeconfig}", *argv],
            input=text,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0 or not is_fine, done.stdout
        return done.stdout

    def get(self, path: str) -> Any:
        """Return an object, or None where there is none."""
        reply = self.client.get(path)
        if reply.status_code == 404:
            return None
        reply.raise_for_status()
        return reply.json()


@contextlib.contextmanager
def control_plane(
    programs: Path,
    folder: Path,
    *,
    controllers: bool = True,
    kwok: bool = False,
    host: str = "127.0.0.1",
    flags: Mapping[str, Sequence[str]] | None = None,
    logs: Path | None = None,
) -> Iterator[ControlPlane]:
    """Run a control plane for the time of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    with PortPicker() as ports:
        port, etcd_port, peer_port, kubelet_port = (ports.pick() for _ in range(4))
    plane = ControlPlane(programs, folder, port, etcd_port, secrets.token_hex(16), host, flags or {}, logs)
    (logs or folder).mkdir(parents=True, exist_ok=True)
    _write_keys(plane)
    try:
        plane.start(
            "etcd",
            f"--data-dir={folder / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls=http://127.0.0.1:{plane.etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{plane.etcd_port}",
            f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
            "--log-level=warn",
        )
        plane.start_api_server()
        if controllers:
            plane.start_controllers()
            plane.start("kube-scheduler", f"--kubeconfig={plane.kubeconfig}", "--leader-elect=false", "--secure-port=0")
        if kwok:
            plane.start_kwok(kubelet_port)
        yield plane
    finally:
        plane.client.close()
        for name in reversed(list(plane.processes)):
            plane.stop(name)


def _write_keys(plane: ControlPlane) -> None:
    key = plane.folder / "service-account.key"
    argv = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(key)]
    subprocess.run(argv, check=True, capture_output=True)
    (plane.folder / "tokens.csv").write_text(f'{plane.token},{ADMIN},{ADMIN},"system:masters"\n')
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": ADMIN}}],
        "clusters": [{"name": "test", "cluster": {"server": plane.url, "insecure-skip-tls-verify": True}}],
        "users": [{"name": ADMIN, "user": {"token": plane.token}}],
    }
    plane.kubeconfig.write_text(json.dumps(config))
