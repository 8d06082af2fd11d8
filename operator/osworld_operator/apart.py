"""Keeps a pool's spares on more than one node, so that the loss of any one leaves some that take over at once. Pure.

Numbers stay where they are: a pod that has one may be in an episode. A spare is replaced, and its replacement is asked
to keep away from the nodes that have spares. Whether it does is the scheduler's to say, so there is one try for a pool
that an operator comes to know, for its first pods are numbered as they come up, and one for each node that comes: after
the loss of one, all may be on the others. A single spare waits for a node to come: most often no place is better.
"""

from collections import Counter
from collections.abc import Sequence

from osworld_operator.actions import Action, Drain
from osworld_operator.view import PodView, PoolView


def spares_of(pods: Sequence[PodView]) -> Counter[str]:
    """Return how many pods without an env_idx each node has, of `pods`."""
    return Counter(pod.node_name for pod in pods if pod.env_idx is None and pod.node_name is not None)


def is_exposed(view: PoolView) -> bool:
    """Return whether the loss of one node would take a served env_idx and every spare with it."""
    spares = spares_of([pod for pod in view.pods if pod.is_alive])
    served = {pod.node_name for pod in view.pods if pod.is_alive and pod.env_idx is not None}
    return len(spares) == 1 and not served.isdisjoint(spares)


def misplaced(view: PoolView) -> PodView | None:
    """Return a spare that would do more on another node: the youngest of those that are all on one with an env."""
    if not view.may_part or not is_exposed(view):
        return None
    spares = _spares(view)
    served = {pod.node_name for pod in view.pods if pod.is_alive and pod.env_idx is not None}
    # A single spare is of use to every node but its own: it has to be where nothing else is.
    better = view.hosts - served if len(spares) == 1 else view.hosts
    if not better - {spares[0].node_name}:
        return None
    return max(spares, key=lambda pod: (pod.created_s, pod.slot))


def _spares(view: PoolView) -> list[PodView]:
    return [pod for pod in view.pods if pod.is_alive and pod.env_idx is None]


class Parting:
    """What the operator remembers of a pool, so that one that cannot be spread is left alone."""

    def __init__(self) -> None:
        self._hosts: frozenset[str] | None = None
        self._has_come = False
        self._tried: str | None = None

    def may_try(self, view: PoolView) -> bool:
        """Return whether spares may be moved apart: nothing was tried yet, or since a node has come."""
        if self._hosts is not None and view.hosts - self._hosts:
            self._has_come, self._tried = True, None
        self._hosts = view.hosts
        # One that was asked and is still there has not agreed: it may not have been reached.
        is_asked = any(pod.uid == self._tried and pod.is_alive for pod in view.pods)
        is_due = self._has_come or len(_spares(view)) > 1
        return is_due and (self._tried is None or is_asked)

    def note(self, view: PoolView, actions: Sequence[Action]) -> PodView | None:
        """Note it if a spare is asked to go elsewhere. Return it the first time."""
        pod = misplaced(view)
        if pod is None or list(actions) != [Drain(pod)] or pod.uid == self._tried:
            return None
        self._tried = pod.uid
        return pod
