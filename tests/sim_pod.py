"""A pod of `pool_sim`, with what is true of it, whoever knows it."""

from dataclasses import dataclass

from osworld_operator.view import NodeState


@dataclass
class SimPod:
    """A pod as it is."""

    slot: int
    uid: str
    created_s: float
    revision: str
    version: int = 0
    env_idx: int | None = None
    epoch: int = 0
    is_ready: bool = False
    is_down: bool = False
    is_failed: bool = False
    is_busy: bool = False
    episode_epoch: int = 0
    """By which its last episode was begun."""
    is_drained: bool = False
    is_retired: bool = False
    is_terminating: bool = False
    unready_s: float | None = None
    silent_s: float | None = None
    node: NodeState = NodeState.SOUND
    node_name: str = "n0"
    is_held: bool = False
    is_sent_away: bool = False

    @property
    def can_run(self) -> bool:
        """Whether an episode on it goes on."""
        return self.is_ready and not (self.is_down or self.is_failed or self.node is NodeState.LOST)
