"""Addresses of the test cluster: of the benchmarking range, which no network routes.

The host is the first one; each node has one, and a range for its pods. Nodes have no default route: a pod reaches
nothing outside of the cluster.
"""

from typing import Final

HOST: Final = "198.18.0.1"
NODE_PREFIX_BITS: Final = 24
PODS: Final = "198.18.0.0/16"
SERVICES: Final = "198.19.0.0/16"
API_SERVICE: Final = "198.19.0.1"
HOST_LINK: Final = "owe0"


def node_address(index: int) -> str:
    """Return the address of node `index`, 0 to 9."""
    return f"198.18.0.1{index}"


def node_pods(index: int) -> str:
    """Return the range of the pods of node `index`."""
    return f"198.18.1{index}.0/24"
