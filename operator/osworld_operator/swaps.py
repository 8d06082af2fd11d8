"""Lets an update go on where the cluster has no room for the whole pool. Pure.

Pods that cannot be scheduled, or that a quota refuses, are away; where they are as many as may be, no update would
begin. An idle pod of an older spec then makes room for one of the present spec: a single one, when nothing has changed
for a while, and the next one when that has brought one up. So a spec that fits nowhere costs one pod. An operator that
has just started has tried nothing.
"""

from collections.abc import Sequence
from typing import Final

from osworld_operator.actions import Action, Drain
from osworld_operator.view import PodView, PoolView

STILL_S: Final = 30.0
"""For how long nothing may have changed. A guess: a scheduler takes 10 s at most to look again at what it could not
place (kube-scheduler's ``podMaxBackoffSeconds``), and a quota some seconds to see that a pod is gone."""


class Swaps:
    """What the operator remembers of a pool's update."""

    def __init__(self) -> None:
        self._seen: object = None
        self._since_s = 0.0
        self._tried: tuple[str, int, str] | None = None
        """Revision, how many pods of it were up, and the uid of the pod that was to make room."""

    def may_try(self, view: PoolView, now_s: float) -> bool:
        """Return whether a pod may make room at `now_s`, on a clock that does not jump."""
        if all(pod.revision == view.revision for pod in view.pods):
            self._seen = None
            return False
        pods = frozenset((pod.uid, pod.is_alive, pod.is_ready, pod.hold is None) for pod in view.pods)
        seen = (view.revision, view.replicas + view.spares, pods)
        if seen != self._seen:
            self._seen, self._since_s = seen, now_s
        return now_s - self._since_s >= STILL_S and self._has_helped(view)

    def _has_helped(self, view: PoolView) -> bool:
        """Return whether the last one, if there was any, has brought a pod up, or has not agreed."""
        if self._tried is None:
            return True
        revision, updated, uid = self._tried
        is_there = any(pod.uid == uid and pod.is_alive for pod in view.pods)
        return revision != view.revision or _updated(view) > updated or is_there

    def note(self, view: PoolView, actions: Sequence[Action]) -> PodView | None:
        """Note it if a pod is asked to make room. Return it the first time."""
        before = self._tried
        for action in actions:
            if isinstance(action, Drain) and action.is_swap:
                self._tried = (view.revision, _updated(view), action.pod.uid)
                return None if self._tried == before else action.pod
        return None


def _updated(view: PoolView) -> int:
    return sum(pod.is_alive and pod.is_ready and pod.revision == view.revision for pod in view.pods)
