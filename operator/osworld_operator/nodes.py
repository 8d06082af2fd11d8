"""The nodes, as far as pods care: sound, leaving or lost."""

import asyncio
import logging
import time
from typing import Any, Final

from osworld_operator.cluster import Cluster
from osworld_operator.hosts import Host, host
from osworld_operator.observe import node_state
from osworld_operator.view import NodeState

logger = logging.getLogger(__name__)

LIST_AGAIN_S: Final = 60.0
"""A watch tells of changes at once. A list now and then finds nodes whose end it missed."""


class NodeBook:
    """The state of every node, kept by a watch and by lists."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._listed: float | None = None
        self.states: dict[str, NodeState] = {}
        self._hosts: dict[str, Host] = {}
        self._listing = asyncio.Lock()
        self._told: set[str] = set()
        """Names of which the watch told something since the last list began."""

    async def refresh(self) -> None:
        """List the nodes, if that was long ago.

        Raises:
            ClusterError: They cannot be listed.
        """
        if self._is_known:
            return
        async with self._listing:
            if self._is_known:  # by the one that was waited for
                return
            self._told.clear()
            nodes = {node["metadata"]["name"]: node for node in await self._cluster.nodes()}
            # What the watch has told meanwhile may be newer than the list.
            for name in self.states.keys() - nodes.keys() - self._told:
                del self.states[name], self._hosts[name]
            for name in nodes.keys() - self._told:
                self.states[name], self._hosts[name] = node_state(nodes[name]), host(nodes[name])
            self._listed = time.monotonic()

    @property
    def _is_known(self) -> bool:
        return self._listed is not None and time.monotonic() - self._listed < LIST_AGAIN_S

    def see(self, node: dict[str, Any], is_gone: bool) -> bool:
        """Note what the watch says of a node. Return whether that changes anything."""
        name = node["metadata"]["name"]
        self._told.add(name)
        before, now = self.states.get(name), None if is_gone else node_state(node)
        if now is None:
            self.states.pop(name, None)
            self._hosts.pop(name, None)
        else:
            self.states[name] = now
            self._hosts[name] = host(node)
        if before is not now:
            logger.info("node %s is %s", name, now or "gone")
        return before is not now

    def for_pods(self, spec: dict[str, Any]) -> frozenset[str]:
        """Return the names of the sound nodes that take pods of this spec, as far as that can be told without a try."""
        return frozenset(
            name for name, each in self._hosts.items() if self.states[name] is NodeState.SOUND and each.takes(spec)
        )

    def states_for(self, hosts: frozenset[str]) -> dict[str, NodeState]:
        """Return the states of all nodes for a pool that may run on `hosts`: a pressed one is left for those alone.

        Where there are none, all idle pods would go at once, and the kubelet evicts no more than it must.
        """
        pressed = NodeState.LEAVING if hosts else NodeState.SOUND
        return {name: pressed if state is NodeState.PRESSED else state for name, state in self.states.items()}
