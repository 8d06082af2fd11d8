"""Breaks parts of a pool on real nodes, one every so often: its pods, their env servers, at times a node's power."""

import logging
from typing import Any, Final

from chaos.monkey import Breaker
from nodes.node import Node
from nodes.pool_rig import TRAIN, RunningPool
from osworld_contract.kube_names import COMPONENT_ENV, COMPONENT_ROUTER

logger = logging.getLogger(__name__)

ENV_POD: Final = "env pod"
ENV_SERVER: Final = "env server"
ROUTER_POD: Final = "router pod"
KINDS: Final = (ENV_POD, ENV_SERVER, ROUTER_POD)
POWER: Final = "power of a node"
POWER_TURN: Final = 4
POWER_EVERY: Final = 12
"""The fourth of each dozen breaks is the node's: by then there are envs that have moved."""
CUT_S: Final = 45.0
"""Longer than the nodes' grace and the time to evict: its pods are lost and replaced before it is back."""
START_S: Final = 60.0
"""Until a node's cgroups are empty and it has a network again, with room."""


class PodBreaker(Breaker):
    """Deletes pods and kills env servers of a pool, wherever there is power."""

    longest_s = CUT_S + START_S

    def __init__(self, desks: RunningPool, losing: Node, pause_s: float, seed: int) -> None:
        """Break parts of `desks`, and again and again the power of the node `losing`."""
        super().__init__(pause_s, seed)
        self._desks = desks
        self._losing = losing

    def _break_one(self) -> str | None:
        if self.done.total() % POWER_EVERY == POWER_TURN - 1:
            self._cut_power()
            return POWER
        what = self._random.choice(KINDS)
        pods = self._desks.ready_pods(TRAIN, COMPONENT_ROUTER if what == ROUTER_POD else COMPONENT_ENV)
        targets = [pod for pod in pods if self._desks.node_of(pod).has_power]
        return what if targets and self._break(self._random.choice(targets), what) else None

    def _break(self, pod: dict[str, Any], what: str) -> bool:
        logger.info("%s of %s", what, pod["metadata"]["name"])
        try:
            if what == ENV_SERVER:
                self._desks.kill_server(pod)
            else:
                self._desks.delete_at_once(pod)
        except (AssertionError, ProcessLookupError) as error:  # it ended since it was listed
            logger.info("%s", error)
            return False
        return True

    def _cut_power(self) -> None:
        logger.info("%s: %s, for %.0f s", POWER, self._losing.name, CUT_S)
        self._losing.cut_power()
        try:
            self._is_over.wait(CUT_S)
        finally:
            self._losing.start()
