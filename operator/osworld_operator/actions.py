"""What `decide` may ask for. Each is safe to do twice and to give up halfway: the next round sees what is there."""

from dataclasses import dataclass

from osworld_operator.view import PodView


@dataclass(frozen=True)
class Create:
    """Make the pod of a free slot."""

    slot: int
    avoid: tuple[str, ...] = ()
    """Nodes that have spares: this one is better on another, if it fits there."""


@dataclass(frozen=True)
class Release:
    """Take the env_idx away from a pod."""

    pod: PodView
    is_final: bool = False
    """It is to go, and not to become a spare: it may be in the middle of something."""


@dataclass(frozen=True)
class Assign:
    """Give an env_idx to a pod, under a new epoch."""

    pod: PodView
    env_idx: int
    after: PodView | None = None
    """The pod that has it now and is released first."""
    is_wished: bool = False
    """A router asked for it: the pod before is not to be used again."""


@dataclass(frozen=True)
class Drain:
    """Ask an env server to take no new episode. It refuses while it is busy."""

    pod: PodView
    is_swap: bool = False
    """It makes room for a pod of the present spec, beyond what may be away."""


@dataclass(frozen=True)
class Delete:
    """Delete this very pod, and no other of its name."""

    pod: PodView
    is_at_once: bool = False
    """What it may still be doing is nobody's and need not end first."""


Action = Create | Release | Assign | Drain | Delete
