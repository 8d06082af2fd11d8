"""One node: kubelet, containerd and kube-proxy in namespaces of their own, below one process that can be killed."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from nodes.names import DOMAIN
from nodes.pki import Pki
from nodes.places import HOST, PODS, node_address, node_pods
from nodes.processes import await_namespace, kill, spawn
from nodes.store import give_store
from nodes.switch import Switch
from waiting import wait_until

SCRIPT: Final = Path(__file__).parent / "node.sh"
CGROUPS: Final = Path("/sys/fs/cgroup")
EVIDENCE_CHARACTERS: Final = 2000
EMPTY_DEADLINE_S: Final = 20.0
PAUSE_IMAGE: Final = "docker.io/local/pause:1"
POD_PIDS: Final = 4096
"""What deploy/ec2 gives a pod."""


@dataclass(frozen=True)
class NodePlace:
    """Where a node belongs and what it runs."""

    index: int
    count: int
    folder: Path
    logs: Path
    programs: Path
    store: Path
    """The containerd folder with the images that it has from the start."""


class Node:
    """A node that can lose its power and get it again."""

    def __init__(self, place: NodePlace, pki: Pki, api_url: str, switch: Switch) -> None:
        """Write its configuration; `start` starts it."""
        self.place = place
        self.name = f"n{place.index}"
        self.address = node_address(place.index)
        self._switch = switch
        self._process: subprocess.Popen[bytes] | None = None
        self._write(pki, api_url)

    def start(self) -> None:
        """Start it; it is ready some seconds later."""
        assert self._process is None, f"{self.name} is running"
        self._make_cgroups()
        environment = {
            **os.environ,
            "NAME": self.name,
            "ADDRESS": self.address,
            "PODS": PODS,
            "FOLDER": str(self.place.folder),
            "LOGS": str(self.place.logs),
            "PROGRAMS": str(self.place.programs),
        }
        argv = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "bash", str(SCRIPT)]
        self._process = spawn(argv, self.place.logs / "node.log", environment)
        await_namespace(self._process)
        self._switch.connect(self.place.index, self.place.count, self._process.pid)

    def cut_power(self) -> None:
        """End everything on it at once; nothing is told to anyone. Again is nothing."""
        # First, or the kernel ends the connections of those that are killed, and their peers hear of it.
        self._switch.disconnect(self.place.index)
        kill(self._process)
        self._process = None
        self._remove_cgroups()

    @property
    def has_power(self) -> bool:
        """Return whether it was started and not cut off."""
        return self._process is not None

    def ensure_power(self) -> None:
        """Start it where it has no power."""
        if not self.has_power:
            self.start()

    def check(self) -> None:
        """Raise a RuntimeError if it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            log = (self.place.logs / "node.log").read_text(errors="replace")[-EVIDENCE_CHARACTERS:]
            raise RuntimeError(f"{self.name} has ended by itself; its logs are in {self.place.logs}\n{log}")

    def run(self, *argv: str, deadline_s: float = 60.0) -> str:
        """Run a program on the node, ``ctr`` or ``iptables`` for example, and return what it printed."""
        assert self._process is not None, f"{self.name} has no power"
        inner = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()[0]
        whole = ["nsenter", "--target", inner, "--net", "--mount", "--pid", *argv]
        done = subprocess.run(whole, capture_output=True, text=True, timeout=deadline_s, check=False)
        assert done.returncode == 0, f"{self.name}: {' '.join(argv)}: {done.stderr or done.stdout}"
        return done.stdout

    def _write(self, pki: Pki, api_url: str) -> None:
        folder = self.place.folder
        for each in (folder / "cni", self.place.logs):
            each.mkdir(parents=True, exist_ok=True)
        give_store(self.place.store, folder / "fs" / "var" / "lib" / "containerd")
        pki.kubeconfig(folder / "kubelet.kubeconfig", api_url, f"system:node:{self.name}", "system:nodes")
        pki.kubeconfig(folder / "proxy.kubeconfig", api_url, "system:kube-proxy")
        certificate, key = pki.issue(f"{self.name}-server", self.name, None, self.address)
        (folder / "containerd.toml").write_text(containerd_config(folder / "cni"))
        (folder / "cni" / "10-pods.conflist").write_text(json.dumps(network_config(self.place.index)))
        kubelet = kubelet_config(self.name, self.address)
        kubelet["authentication"] = {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(pki.ca)}}
        kubelet |= {"tlsCertFile": str(certificate), "tlsPrivateKeyFile": str(key)}
        (folder / "kubelet.yaml").write_text(yaml.safe_dump(kubelet))

    def _cgroups(self) -> list[Path]:
        """Return this node's cgroup in each hierarchy: one with version 2, a dozen with version 1."""
        if (CGROUPS / "cgroup.procs").exists():
            return [CGROUPS / self.name]
        return [each / self.name for each in CGROUPS.iterdir() if (each / "cgroup.procs").exists()]

    def _make_cgroups(self) -> None:
        self._remove_cgroups()
        for path in self._cgroups():
            path.mkdir(exist_ok=True)
            # Version 1 does not hand these down.
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (path / name).exists() and not (path / name).read_text().strip():
                    with suppress(OSError):
                        (path / name).write_text((path.parent / name).read_text())

    def _remove_cgroups(self) -> None:
        def are_gone() -> bool:
            for top in self._cgroups():
                for folder in sorted(top.rglob("*"), reverse=True) if top.exists() else []:
                    if folder.is_dir():
                        self._end_those_in(folder)
                        folder.rmdir()
                if top.exists():
                    top.rmdir()
            return True

        wait_until(are_gone, EMPTY_DEADLINE_S, f"the cgroups of {self.name} are empty")

    @staticmethod
    def _end_those_in(folder: Path) -> None:
        # Left by a run that was killed before the kernel had ended the last of them.
        for pid in (folder / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def kubelet_config(name: str, address: str) -> dict[str, Any]:
    """Return a kubelet's configuration but for its certificates."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "cgroupDriver": "cgroupfs",
        # Both kubelets would own /kubepods, and end each other's pods.
        "cgroupRoot": f"/{name}",
        "failSwapOn": False,
        "failCgroupV1": False,
        "authorization": {"mode": "Webhook"},
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # Images come from archives only: what is removed does not come back.
        "imageGCHighThresholdPercent": 100,
        "resolvConf": "",
        "clusterDomain": DOMAIN,
        "clusterDNS": [HOST],
        "nodeStatusUpdateFrequency": "4s",
        # A fork bomb is bounded by its pod.
        "podPidsLimit": POD_PIDS,
    }


def containerd_config(cni: Path) -> str:
    """Return containerd's configuration."""
    return f"""\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  disable_apparmor = true
  # The score may not be lowered in a container of this machine's own kind.
  restrict_oom_score_adj = true
  # /dev/kvm for pods that do not run as root.
  device_ownership_from_security_context = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
"""


def network_config(index: int) -> dict[str, Any]:
    """Return the list of CNI plugins of a node."""
    ipam = {
        "type": "host-local",
        "dataDir": "/run/cni/addresses",
        "ranges": [[{"subnet": node_pods(index)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True, "ipam": ipam}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ports]}
