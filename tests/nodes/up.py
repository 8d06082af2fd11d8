"""The cluster to play with, until Ctrl-C: ``python tests/nodes/up.py``."""

import signal
import sys
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))

from nodes.images import ImageError, ready_store  # noqa: E402 - a script finds its siblings only so
from nodes.real_cluster import CannotRunError, real_cluster  # noqa: E402


def main() -> int:
    """Start it, say how to use it, and take it down on SIGINT or SIGTERM."""
    try:
        with real_cluster(CHECKOUT / "out" / "cluster-up", ready_store()) as cluster:
            cluster.plane.kubectl("apply", "--server-side", "-f", str(CHECKOUT / "crds"))
            _say(
                f"two nodes are ready. In another terminal:\n"
                f"    export KUBECONFIG={cluster.kubeconfig} PATH={cluster.plane.programs}:$PATH\n"
                f"    kubectl get nodes -o wide\n"
                f"    kubectl apply -f examples/pools/xvfb.yaml\n"
                f"Logs are in out/cluster-up. Ctrl-C takes it down."
            )
            numbers = {signal.SIGINT, signal.SIGTERM}
            signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
            signal.sigwait(numbers)
            _say("taking it down")
    except (CannotRunError, ImageError) as error:
        _say(f"test cluster: {error}")
        return 1
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"==> {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
