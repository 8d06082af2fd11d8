"""The cluster's DNS: CoreDNS on the host, as pods' first and only name server."""

import socket
import subprocess
from pathlib import Path
from typing import Final

from cluster.programs import programs_dir
from nodes.places import HOST
from nodes.processes import spawn
from waiting import wait_until

DOMAIN: Final = "cluster.local"
PORT: Final = 53
ANSWER_DEADLINE_S: Final = 20.0


def start_names(kubeconfig: Path, folder: Path, logs: Path) -> "subprocess.Popen[bytes]":
    """Start it and wait until it listens; it answers once it has listed the Services."""
    corefile = folder / "Corefile"
    corefile.write_text(
        f"{DOMAIN} {{\n  bind {HOST}\n  errors\n  kubernetes {{\n    kubeconfig {kubeconfig}\n  }}\n}}\n"
    )
    process = spawn([str(programs_dir() / "coredns"), "-conf", str(corefile)], logs / "coredns.log")

    def listens() -> bool:
        assert process.poll() is None, (logs / "coredns.log").read_text(errors="replace")[-2000:]
        socket.create_connection((HOST, PORT), timeout=1).close()
        return True

    wait_until(listens, ANSWER_DEADLINE_S, "the cluster's DNS listens")
    return process
