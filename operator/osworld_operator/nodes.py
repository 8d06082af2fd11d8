"""The nodes, as far as pods care: sound, leaving or lost."""

import logging
import time
from typing import Any, Final

from osworld_operator.cluster import Cluster
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

    async def refresh(self) -> None:
        """List the nodes, if that was long ago.

        Raises:
            ClusterError: They cannot be listed.
        """
        if self._listed is not None and time.monotonic() - self._listed < LIST_AGAIN_S:
            return
        nodes = await self._cluster.nodes()
        self.states = {node["metadata"]["name"]: node_state(node) for node in nodes}
        self._listed = time.monotonic()

    def see(self, node: dict[str, Any], is_gone: bool) -> bool:
        """Note what the watch says of a node. Return whether that changes anything."""
        name = node["metadata"]["name"]
        before, now = self.states.get(name), None if is_gone else node_state(node)
        if now is None:
            self.states.pop(name, None)
        else:
            self.states[name] = now
        if before is not now:
            logger.info("node %s is %s", name, now or "gone")
        return before is not now
