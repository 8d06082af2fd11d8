"""A pool at one moment, as far as decisions need it. Pure data; `observe` makes it from what the API server says."""

from dataclasses import dataclass, field
from enum import StrEnum

from osworld_contract.crd import ConditionReason, UpdateStrategy


class NodeState(StrEnum):
    """What a pod's node means for it."""

    NONE = "none"
    """The pod has no node yet."""
    SOUND = "sound"
    LEAVING = "leaving"
    """Cordoned, or about to be taken away: episodes end there, none begins."""
    PRESSED = "pressed"
    """Short of disk, memory or processes: the kubelet evicts pods, in the middle of episodes too. A `PodView` never has
    this: for a pool that may run elsewhere the node is leaving, for another one sound."""
    DOUBTED = "doubted"
    """Lost for Kubernetes, but the env server there answers, or has not been asked since. Of a pod, never of a node."""
    LOST = "lost"
    """Unreachable or gone: what runs there cannot be reached and may still run."""


@dataclass(frozen=True)
class Hold:
    """What keeps a pod from coming up, which waiting alone does not change."""

    reason: ConditionReason
    message: str


@dataclass(frozen=True)
class PodView:
    """One env pod."""

    name: str
    slot: int
    uid: str
    resource_version: str
    created_s: float
    """Unix time."""
    revision: str = ""
    env_idx: int | None = None
    epoch: int = 0
    is_ready: bool = False
    is_down: bool = False
    """Its env server ran once and does not run now, or the pod has ended."""
    is_failed: bool = False
    """The pod has ended and will never run again."""
    unready_s: float | None = None
    """For how long it has not been ready, where it was ready before."""
    silent_s: float | None = None
    """For how long its env server, ready in the kubelet's eyes, has not answered the operator. None: it answers."""
    is_terminating: bool = False
    is_busy: bool | None = None
    """In the middle of an episode. None: not asked, or no answer."""
    is_sent_away: bool = False
    """Somebody asked, by `ANNOTATION_DRAIN`, that it goes after its episode."""
    is_drained: bool = False
    """Its env server takes no episode any more."""
    is_retired: bool = False
    """Its env_idx was moved away on a router's request: what it may still be doing is nobody's."""
    node: NodeState = NodeState.SOUND
    node_name: str | None = None
    hold: Hold | None = None
    address: str | None = None
    """IP address of the pod."""

    @property
    def is_alive(self) -> bool:
        """Whether it serves, or will."""
        is_over = self.is_terminating or self.is_failed or self.is_drained or self.is_retired
        return not (is_over or self.node is NodeState.LOST)


@dataclass(frozen=True)
class Wish:
    """A router's wish that an env_idx leaves the pod that has it in the router's eyes."""

    env_idx: int
    from_uid: str
    epoch: int


@dataclass(frozen=True)
class PoolView:
    """All env pods of a pool, and what its spec asks for."""

    replicas: int
    spares: int
    revision: str
    """Of pods made from the present spec."""
    strategy: UpdateStrategy = UpdateStrategy.WHEN_IDLE
    max_unavailable: int = 1
    pods: tuple[PodView, ...] = field(default=())
    foreign: tuple[PodView, ...] = field(default=())
    """Pods by the pool's labels that are not its own: of an OSWorldEnv of this name before it. They have their names
    until they are gone, and are to have no env_idx."""
    wishes: frozenset[Wish] = frozenset()
    hosts: frozenset[str] = frozenset()
    """Names of the sound nodes on which the pool's pods may run."""
    may_part: bool = False
    """Whether a spare may be sent to another node; see `apart`."""
    may_swap: bool = False
    """Whether one pod of an older spec may make room for one that has none."""
    is_deaf: bool = False
    """Most env servers do not answer the operator: that is no fault of each of them."""

    @property
    def holders(self) -> dict[int, PodView]:
        """Return the pod of each env_idx: of several, the one with the highest epoch."""
        found: dict[int, PodView] = {}
        for pod in sorted(self.pods, key=lambda pod: pod.epoch):
            if pod.env_idx is not None:
                found[pod.env_idx] = pod
        return found

    def is_wished_away(self, pod: PodView) -> bool:
        """Return whether a router wants the env_idx of `pod` elsewhere, and knows the present."""
        return pod.env_idx is not None and Wish(pod.env_idx, pod.uid, pod.epoch) in self.wishes
