"""What `pool_sim` raises where a rule is broken, and rules that are held against each round."""

from osworld_operator.actions import Action, Assign, Create, Delete
from osworld_operator.decide import can_take
from osworld_operator.view import NodeState, PoolView


class RuleBrokenError(AssertionError):
    """Something happened that must never happen."""


def refuse_too_many(view: PoolView, actions: list[Action]) -> None:
    """A pod that is alive, may stay and has no number above the last is one of those that were asked for."""
    staying = [pod for pod in view.pods if pod.node is not NodeState.LEAVING and not pod.is_sent_away]
    counted = [pod for pod in staying if pod.is_alive]
    kept = [pod for pod in counted if pod.env_idx is None or pod.env_idx < view.replicas]
    deleted = {action.pod.uid for action in actions if isinstance(action, Delete)}
    there = sum(pod.uid not in deleted for pod in kept)
    creates = sum(isinstance(action, Create) for action in actions)
    if creates and there + creates > view.replicas + view.spares:
        raise RuleBrokenError(f"{creates} new pods beside {there} for {view.replicas} + {view.spares}")


def refuse_cut_off(view: PoolView, actions: list[Action]) -> None:
    """A spare with an episode of an env_idx that it has lost comes last."""
    taken = {action.pod.uid for action in actions if isinstance(action, Assign)}
    has_better = any(
        can_take(pod) and pod.silent_s is None and pod.is_busy is not True and pod.uid not in taken for pod in view.pods
    )
    if has_better and any(pod.is_busy is True and pod.uid in taken for pod in view.pods):
        raise RuleBrokenError("a spare with an old episode was taken before another one")
