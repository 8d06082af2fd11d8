"""The network between host and nodes: a bridge in a namespace of its own, with a cable to each.

Not a bridge of the host: its frames would pass the host's firewall (``bridge-nf-call-iptables``), which Docker closes.
And the kernel takes namespace, bridge and all cables away when the one process in it ends, however that happens.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

from nodes.places import HOST, HOST_LINK, NODE_PREFIX_BITS, SERVICES, node_address, node_pods
from nodes.processes import await_namespace, kill, run, spawn

BRIDGE: Final = "switch"


class Switch:
    """The running network."""

    def __init__(self, logs: Path, link: str = HOST_LINK, host: str = HOST) -> None:
        """Make it, with the host's `link` and address in it."""
        argv = ["unshare", "--net", "sleep", "infinity"]
        self._process = spawn(argv, logs / "switch.log")
        try:
            await_namespace(self._process)
            self._inside("ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
            self._inside("ip", "link", "set", BRIDGE, "up")
            run("ip", "link", "add", link, "type", "veth", "peer", "name", "host", "netns", self.pid)
            self._plug("host")
            run("ip", "address", "add", f"{host}/{NODE_PREFIX_BITS}", "dev", link)
            run("ip", "link", "set", link, "up")
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> str:
        """Return the number of the process that holds it."""
        return str(self._process.pid)

    def _inside(self, *argv: str) -> None:
        run("nsenter", "--target", self.pid, "--net", *argv)

    def _plug(self, link: str) -> None:
        self._inside("ip", "link", "set", link, "master", BRIDGE, "up")

    def connect(self, index: int, count: int, node_pid: int) -> None:
        """Give node `index` of `count` its cable, address and routes."""
        pid, link = str(node_pid), _link(index)

        def node(*argv: str) -> None:
            run("nsenter", "--target", pid, "--net", "ip", *argv)

        address = node_address(index)
        peer = ("peer", "name", "eth0", "netns", pid)
        run("ip", "link", "add", link, "netns", self.pid, "type", "veth", *peer)
        self._plug(link)
        node("link", "set", "lo", "up")
        node("address", "add", f"{address}/{NODE_PREFIX_BITS}", "dev", "eth0")
        node("link", "set", "eth0", "up")
        node("route", "add", SERVICES, "via", HOST)
        for other in range(count):
            if other != index:
                node("route", "add", node_pods(other), "via", node_address(other))
        run("ip", "route", "replace", node_pods(index), "via", address)

    def disconnect(self, index: int) -> None:
        """Take the cable of node `index` away; again, or where it went with the node, is nothing."""
        with suppress(AssertionError):
            self._inside("ip", "link", "delete", _link(index))

    def close(self) -> None:
        """Take it away; again is nothing."""
        kill(self._process)


def _link(index: int) -> str:
    return f"node{index}"
