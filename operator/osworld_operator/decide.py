"""What to do about a pool, from what is known of it. Pure: the one place with the fleet's rules.

Moves of env_idx come first, for a trainer waits for them; then removals, then new pods. Rules:

- An env_idx moves to a ready spare at once when its pod is dead, lost, drained or stuck, or when a router that knows
  the present asks for it, whose reset hangs there. Never else while it may be in an episode that can still go on.
- A pod that is alive is deleted only when its env server has agreed to take no more episodes, or cannot have any, or
  when a router has turned away from it.
- Pods that cannot be scheduled count as pods: they are held, not churned.
- An update waits for idle pods, `maxUnavailable` at a time. Where the cluster has no room for the whole pool, one that
  is idle makes room (`swaps`).
- A node is lost when Kubernetes says so and the env server of the pod does not answer either: a control plane that was
  away takes all its nodes for lost, and no episode ends by that.
- A lost node's pods are replaced beside them. Their names stay taken, and nobody deletes them but the cluster.
- Pods of an OSWorldEnv of the same name before are left to the cluster: they may be in an episode. Their names stay
  taken, and their env_idx are this pool's: routers would go on asking them.
- Spares are kept on more than one node (`apart`), by the choice of which get numbers and of where new pods go. A spare
  is replaced for it only in a pool that is whole.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from osworld_contract.crd import UpdateStrategy
from osworld_operator.actions import Action, Assign, Create, Delete, Drain, Release
from osworld_operator.apart import misplaced, spares_of
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

AVOIDED_MAX: Final = 8
"""Nodes that a new pod is asked to keep away from. Where more have spares, one more there does no harm."""

PLACED_MAX: Final = 50
"""Spares among which one is chosen by its node: of more, some are left on each, and a thousand new pods are quick."""

PODS_PER_WANTED: Final = 2
"""Lost pods are replaced beside them, up to so many pods in all. Where the replacements are lost as well, more will not
help."""


def decide(view: PoolView) -> list[Action]:
    """Return what to do now. No action means that the pool is as its spec asks, or that only waiting helps."""
    holders = view.holders
    moves: list[Action] = [*_released_twins(view, holders), *_moves(view, holders)]
    taken = {pod.slot for pod in (*view.pods, *view.foreign)}
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
    avoid = tuple(sorted(spares_of([pod for pod in kept if pod.uid not in assigned])))
    actions: list[Action] = [
        *(Release(pod) for pod in view.foreign if pod.env_idx is not None),
        *moves,
        *(Delete(pod, is_at_once=pod.is_retired) for pod in doomed.values() if not pod.is_terminating),
        *(_farewell(pod) for pod in (*leaving, *surplus)),
        *outdated,
        *(Drain(pod) for pod in dying),
        *(Create(slot, avoid if len(avoid) <= AVOIDED_MAX else ()) for slot in _free_slots(taken, room)),
    ]
    return actions or [Drain(pod) for pod in _idle_misplaced(view, wanted)]


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
    is_fit = pod.is_alive and pod.is_ready and not is_broken(pod)
    return pod.env_idx is None and is_fit and pod.node is not NodeState.DOUBTED and _may_stay(pod)


def _released_twins(view: PoolView, holders: dict[int, PodView]) -> Iterator[Release]:
    """Of several pods with one env_idx the latest has it: the others came back from a node that was lost."""
    for pod in view.pods:
        if pod.env_idx is not None and holders[pod.env_idx].uid != pod.uid:
            yield Release(pod)


def _moves(view: PoolView, holders: dict[int, PodView]) -> Iterator[Assign]:
    """Give each env_idx that nobody serves to a spare.

    Of one with no old episode if there is one, then of the present spec, then of a node with more spares than others,
    then the oldest.
    """
    spares = [pod for pod in view.pods if can_take(pod)]
    spares.sort(key=lambda pod: _rank(pod, view, Counter[str]()))
    for idx in range(view.replicas):
        holder = holders.get(idx)
        is_wished = holder is not None and view.is_wished_away(holder)
        if spares and (holder is None or is_wished or is_broken(holder)):
            # Whose env server has ended is in the middle of nothing: it comes back clean, and may be a spare.
            may_be_at_work = holder is not None and not holder.is_down
            on_node = spares_of(spares) if len(spares) <= PLACED_MAX else Counter[str]()
            spare = min(spares, key=lambda pod: _rank(pod, view, on_node)) if on_node else spares[0]
            spares.remove(spare)
            yield Assign(spare, idx, holder, is_wished and may_be_at_work)


def _rank(pod: PodView, view: PoolView, on_node: Counter[str]) -> tuple[bool, bool, bool, int, float, int]:
    """Return what orders spares, the first one to be given a number first."""
    beside = on_node[pod.node_name] if pod.node_name is not None else 0
    was_cut_off = pod.is_busy is True  # it has an episode of an env_idx that it has lost
    return pod.silent_s is not None, was_cut_off, pod.revision != view.revision, -beside, pod.created_s, pod.slot


def _idle_misplaced(view: PoolView, wanted: int) -> list[PodView]:
    """Return the spare that is to go elsewhere, if the pool can be without it for a while."""
    is_whole = len(view.pods) == wanted and all(pod.is_ready and not is_broken(pod) for pod in view.pods)
    pod = misplaced(view) if is_whole else None
    return [] if pod is None else [pod]


def _is_hopeless(pod: PodView) -> bool:
    """Return whether the pod only stands in the way: no episode is on it and none will be."""
    if pod.node is NodeState.LOST:
        return False  # its name stays taken: it may still run there
    away_s = max(pod.unready_s or 0.0, pod.silent_s or 0.0)
    return pod.is_failed or pod.is_drained or pod.is_retired or away_s >= REPLACE_AFTER_S


def _may_stay(pod: PodView) -> bool:
    return pod.node in (NodeState.NONE, NodeState.SOUND, NodeState.DOUBTED) and not pod.is_sent_away


def _must_leave(pod: PodView, view: PoolView) -> bool:
    """Return whether the pod goes, after its episode: its number is too high, its node goes, or it was sent."""
    return (pod.env_idx is not None and pod.env_idx >= view.replicas) or not _may_stay(pod)


def _needs_drain(pod: PodView, holders: dict[int, PodView]) -> bool:
    """Return whether a pod that somebody deleted still has an env_idx that could move once its episode is over."""
    has_idx = pod.env_idx is not None and holders[pod.env_idx].uid == pod.uid
    return has_idx and _has_come_up(pod) and not is_broken(pod)


def _has_come_up(pod: PodView) -> bool:
    return pod.is_ready or pod.node is NodeState.DOUBTED


def _farewell(pod: PodView) -> Drain | Delete:
    """A pod that has come up has its say; one that has not, or that nobody can reach, has no episode."""
    return Drain(pod) if _has_come_up(pod) and not is_silent(pod) else Delete(pod)


def _surplus(kept: list[PodView], count: int, assigned: set[str]) -> Iterable[PodView]:
    """Return the spares to remove: first those that cannot start, then those that have not, then the youngest."""
    spares = [pod for pod in kept if pod.env_idx is None and pod.uid not in assigned]
    spares.sort(key=lambda pod: (pod.hold is None, pod.is_ready, -pod.created_s, -pod.slot))
    return spares[: max(count, 0)]


def _outdated(kept: list[PodView], view: PoolView, missing: int) -> Iterator[Action]:
    """Replace pods of an older spec: at once what is not ready anyway, the rest when idle and few at a time."""
    outdated = [pod for pod in kept if pod.revision != view.revision and pod.node is not NodeState.DOUBTED]
    if view.strategy is UpdateStrategy.RECREATE:
        yield from (Delete(pod) for pod in outdated)
        return
    unready = [pod for pod in outdated if not pod.is_ready and (pod.env_idx is None or is_broken(pod))]
    waiting = [*unready, *(pod for pod in outdated if pod.is_ready and is_silent(pod))]
    yield from (Delete(pod) for pod in waiting)
    away = max(missing, 0) + sum(not pod.is_ready for pod in kept if pod not in waiting) + len(waiting)
    idle = [pod for pod in outdated if pod.is_ready and pod.is_busy is not True and not is_silent(pod)]
    idle.sort(key=lambda pod: (pod.env_idx is not None, pod.is_busy is None, pod.created_s, pod.slot))
    count = view.max_unavailable - away
    is_swap = count < 1 and view.may_swap and not waiting and _has_only_no_room(kept, view)
    yield from (Drain(pod, is_swap) for pod in idle[: 1 if is_swap else max(count, 0)])


def _has_only_no_room(kept: list[PodView], view: PoolView) -> bool:
    """Return whether every pod that is away waits for a node, and none ends that would leave one."""
    is_settled = all(pod.is_alive or pod.node is NodeState.LOST for pod in view.pods)
    return is_settled and all(pod.is_ready or (pod.hold and pod.node is NodeState.NONE) for pod in kept)


def _free_slots(taken: set[int], count: int) -> list[int]:
    free: list[int] = []
    slot = 0
    while len(free) < count:
        if slot not in taken:
            free.append(slot)
        slot += 1
    return free
