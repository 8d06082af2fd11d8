"""What to do about a pool, from what is known of it. Pure: the one place with the fleet's rules.

Moves of env_idx come first, for a trainer waits for them; then removals, then new pods. Rules:

- An env_idx moves to a ready spare at once when its pod is dead, lost, drained or stuck, or when a router that knows
  the present asks for it, whose reset hangs there. Never else while it may be in an episode that can still go on.
- A pod that is alive is deleted only when its env server has agreed to take no more episodes, or cannot have any, or
  when a router has turned away from it.
- Pods that cannot be scheduled count as pods: they are held, not churned.
- A lost node's pods are replaced beside them. Their names stay taken, and nobody deletes them but the cluster.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from osworld_contract.crd import UpdateStrategy
from osworld_operator.actions import Action, Assign, Create, Delete, Drain, Release
from osworld_operator.view import NodeState, PodView, PoolView

STUCK_S: Final = 20.0
"""How long a pod with an env_idx may be unready, its server running, before the env_idx moves. A guess: longer than
the readiness probe needs to notice a repair (2 s), shorter than a trainer's patience."""

SILENT_S: Final = 300.0
"""How long a ready pod's env server may leave the operator without an answer before it counts as stuck. A guess: longer
than any call of an episode (270 s), and than most troubles of a network, which episodes can outlive."""

REPLACE_AFTER_S: Final = 900.0
"""How long a pod may be unready after it was ready, or silent, before it is replaced. A guess: a restart under
emulation that fetches an image again takes minutes."""

CREATES_MAX: Final = 100
"""New pods in one round, so that a mistake in a spec does not fill a cluster before anybody sees it."""

PODS_PER_WANTED: Final = 2
"""Lost pods are replaced beside them, up to so many pods in all. Where the replacements are lost as well, more will not
help."""


def decide(view: PoolView) -> list[Action]:
    """Return what to do now. No action means that the pool is as its spec asks, or that only waiting helps."""
    holders = view.holders
    moves: list[Action] = [*_released_twins(view, holders), *_moves(view, holders)]
    doomed = {pod.uid: pod for pod in view.pods if _is_hopeless(pod)}
    leaving = [pod for pod in view.pods if pod.is_alive and pod.uid not in doomed and _must_leave(pod, view)]
    kept = [pod for pod in view.pods if pod.is_alive and pod.uid not in doomed and not _must_leave(pod, view)]
    wanted = view.replicas + view.spares
    missing = wanted - len(kept)
    room = min(missing, CREATES_MAX, PODS_PER_WANTED * wanted - len(view.pods))
    assigned = {move.pod.uid for move in moves if isinstance(move, Assign)}
    surplus = list(_surplus(kept, -missing, assigned))
    outdated = list(_outdated([pod for pod in kept if pod not in surplus and pod.uid not in assigned], view, missing))
    dying = [pod for pod in view.pods if pod.is_terminating and _needs_drain(pod, holders)]
    return [
        *moves,
        *(Delete(pod, is_at_once=pod.is_retired) for pod in doomed.values() if not pod.is_terminating),
        *(_farewell(pod) for pod in (*leaving, *surplus)),
        *outdated,
        *(Drain(pod) for pod in dying),
        *(Create(slot) for slot in _free_slots(view.pods, room)),
    ]


def is_broken(pod: PodView) -> bool:
    """Return whether no episode on this pod can go on or begin."""
    is_stuck = pod.unready_s is not None and pod.unready_s >= STUCK_S
    is_over = pod.is_failed or pod.is_down or pod.is_drained or pod.node is NodeState.LOST
    return is_over or is_stuck or is_silent(pod)


def is_silent(pod: PodView) -> bool:
    """Return whether the operator has had no answer for so long that it does not wait for one any more."""
    return pod.silent_s is not None and pod.silent_s >= SILENT_S


def can_take(pod: PodView) -> bool:
    """Return whether this pod can be given an env_idx: a spare."""
    return pod.env_idx is None and pod.is_alive and pod.is_ready and not is_broken(pod) and _may_stay(pod)


def _released_twins(view: PoolView, holders: dict[int, PodView]) -> Iterator[Release]:
    """Of several pods with one env_idx the latest has it: the others came back from a node that was lost."""
    for pod in view.pods:
        if pod.env_idx is not None and holders[pod.env_idx].uid != pod.uid:
            yield Release(pod)


def _moves(view: PoolView, holders: dict[int, PodView]) -> Iterator[Assign]:
    """Give each env_idx that nobody serves to a spare: the oldest, of the present spec if there is one."""
    spares = [pod for pod in view.pods if can_take(pod)]
    spares.sort(key=lambda pod: (pod.silent_s is not None, pod.revision != view.revision, pod.created_s, pod.slot))
    for idx in range(view.replicas):
        holder = holders.get(idx)
        is_wished = holder is not None and view.is_wished_away(holder)
        if spares and (holder is None or is_wished or is_broken(holder)):
            # Whose env server has ended is in the middle of nothing: it comes back clean, and may be a spare.
            may_be_at_work = holder is not None and not holder.is_down
            yield Assign(spares.pop(0), idx, holder, is_wished and may_be_at_work)


def _is_hopeless(pod: PodView) -> bool:
    """Return whether the pod only stands in the way: no episode is on it and none will be."""
    if pod.node is NodeState.LOST:
        return False  # its name stays taken: it may still run there
    away_s = max(pod.unready_s or 0.0, pod.silent_s or 0.0)
    return pod.is_failed or pod.is_drained or pod.is_retired or away_s >= REPLACE_AFTER_S


def _may_stay(pod: PodView) -> bool:
    return pod.node in (NodeState.NONE, NodeState.SOUND) and not pod.is_sent_away


def _must_leave(pod: PodView, view: PoolView) -> bool:
    """Return whether the pod goes, after its episode: its number is too high, its node goes, or it was sent."""
    return (pod.env_idx is not None and pod.env_idx >= view.replicas) or not _may_stay(pod)


def _needs_drain(pod: PodView, holders: dict[int, PodView]) -> bool:
    """Return whether a pod that somebody deleted still has an env_idx that could move once its episode is over."""
    has_idx = pod.env_idx is not None and holders[pod.env_idx].uid == pod.uid
    return has_idx and pod.is_ready and not is_broken(pod)


def _farewell(pod: PodView) -> Drain | Delete:
    """A pod that has come up has its say; one that has not, or that nobody can reach, has no episode."""
    return Drain(pod) if pod.is_ready and not is_silent(pod) else Delete(pod)


def _surplus(kept: list[PodView], count: int, assigned: set[str]) -> Iterable[PodView]:
    """Return the spares to remove: first those that cannot start, then those that have not, then the youngest."""
    spares = [pod for pod in kept if pod.env_idx is None and pod.uid not in assigned]
    spares.sort(key=lambda pod: (pod.hold is None, pod.is_ready, -pod.created_s, -pod.slot))
    return spares[: max(count, 0)]


def _outdated(kept: list[PodView], view: PoolView, missing: int) -> Iterator[Action]:
    """Replace pods of an older spec: at once what is not ready anyway, the rest when idle and few at a time."""
    outdated = [pod for pod in kept if pod.revision != view.revision]
    if view.strategy is UpdateStrategy.RECREATE:
        yield from (Delete(pod) for pod in outdated)
        return
    unready = [pod for pod in outdated if not pod.is_ready and (pod.env_idx is None or is_broken(pod))]
    waiting = [*unready, *(pod for pod in outdated if pod.is_ready and is_silent(pod))]
    yield from (Delete(pod) for pod in waiting)
    away = max(missing, 0) + sum(not pod.is_ready for pod in kept if pod not in waiting) + len(waiting)
    idle = [pod for pod in outdated if pod.is_ready and pod.is_busy is not True and not is_silent(pod)]
    idle.sort(key=lambda pod: (pod.env_idx is not None, pod.is_busy is None, pod.created_s, pod.slot))
    yield from (Drain(pod) for pod in idle[: max(view.max_unavailable - away, 0)])


def _free_slots(pods: tuple[PodView, ...], count: int) -> list[int]:
    taken = {pod.slot for pod in pods}
    free: list[int] = []
    slot = 0
    while len(free) < count:
        if slot not in taken:
            free.append(slot)
        slot += 1
    return free
