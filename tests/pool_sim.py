"""A cluster in miniature for the operator's decisions: pods that start, fail, get lost and run episodes.

It does what `decide` asks as the API server would: an action whose pod has changed since it was looked at is refused.
It holds what must be true at every moment, and raises where it is not.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from osworld_contract.crd import ConditionReason, UpdateStrategy
from osworld_operator.actions import Action, Assign, Create, Delete, Drain, Release
from osworld_operator.decide import SILENT_S
from osworld_operator.view import Hold, NodeState, PodView, PoolView, Wish

Decide = Callable[[PoolView], list[Action]]


class RuleBrokenError(AssertionError):
    """Something happened that must never happen."""


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
    is_drained: bool = False
    is_retired: bool = False
    is_terminating: bool = False
    unready_s: float | None = None
    silent_s: float | None = None
    node: NodeState = NodeState.SOUND
    is_held: bool = False
    is_sent_away: bool = False

    @property
    def can_run(self) -> bool:
        """Whether an episode on it goes on."""
        return self.is_ready and not (self.is_down or self.is_failed or self.node is NodeState.LOST)


class SimCluster:
    """The pods of one pool."""

    def __init__(self, chance: random.Random, decide: Decide) -> None:
        self.chance = chance
        self.decide = decide
        self.pods: dict[int, SimPod] = {}
        self.replicas, self.spares = 0, 0
        self.revision = "r0"
        self.max_unavailable = 1
        self.last_epoch = 0
        self.created = 0
        self.clock_s = 0.0
        self.wishes: set[Wish] = set()
        self.wished: set[Wish] = set()
        """All that there ever were."""

    def view(self) -> PoolView:
        return PoolView(
            replicas=self.replicas,
            spares=self.spares,
            revision=self.revision,
            strategy=UpdateStrategy.WHEN_IDLE,
            max_unavailable=self.max_unavailable,
            pods=tuple(self._seen(pod) for pod in sorted(self.pods.values(), key=lambda pod: pod.slot)),
            wishes=frozenset(self.wishes),
        )

    def round(self, steps: int | None = None, view: PoolView | None = None) -> list[Action]:
        """Decide and act; with `steps` the operator dies after so many actions."""
        view = view or self.view()
        actions = self.decide(view)
        _refuse_too_many(view, actions)
        moves = [action for action in actions if isinstance(action, Assign)]
        epoch, self.last_epoch = self.last_epoch, self.last_epoch + len(moves)
        epochs = {id(move): epoch + 1 + number for number, move in enumerate(moves)}
        for action in actions[:steps]:
            self._do(action, epochs.get(id(action), 0))
            self._check()
        return actions

    def settle(self, rounds: int = 60) -> None:
        """Let everything that is on its way arrive, with the operator at work, and every episode end."""
        for _ in range(rounds):
            for pod in list(self.pods.values()):
                pod.is_busy, pod.silent_s = False, None
                if pod.is_terminating and pod.node is not NodeState.LOST:
                    del self.pods[pod.slot]
                elif not pod.is_failed and not pod.is_drained and not pod.is_held and pod.node is not NodeState.LOST:
                    self._change(pod, is_ready=True, is_down=False, unready_s=None)
            if not self.round() and all(pod.is_ready for pod in self.pods.values()):
                return
        raise RuleBrokenError(f"never at rest: {self.decide(self.view())}\n{self.view()}")

    def happen(self) -> None:
        """Let one thing happen that nobody asked for."""
        self.clock_s += 1
        pod = self.chance.choice(list(self.pods.values())) if self.pods else None
        events: list[Callable[[SimPod], None]] = [
            lambda pod: self._change(pod, is_ready=True, is_down=False, unready_s=None),
            lambda pod: self._change(pod, is_ready=True, is_down=False, unready_s=None),
            lambda pod: self._change(pod, is_ready=False, is_down=True, is_busy=False, unready_s=0.0),
            lambda pod: self._change(pod, is_ready=False, is_failed=True, is_down=True, is_busy=False),
            lambda pod: self._change(pod, is_ready=False, unready_s=self.chance.choice([1.0, 30.0, 1000.0])),
            lambda pod: self._change(pod, node=NodeState.LOST),
            lambda pod: self._change(pod, node=NodeState.SOUND),
            lambda pod: self._change(pod, node=NodeState.LEAVING),
            lambda pod: self._change(pod, is_sent_away=True),
            lambda pod: self._change(pod, is_terminating=True),
            self._begin_episode,
            self._begin_episode,
            lambda _: self._wish(),
            lambda _: self._wish(),
            lambda pod: setattr(pod, "silent_s", self.chance.choice([None, 1.0, 400.0, 1000.0])),
            lambda pod: self._change(pod, is_busy=False),
            lambda pod: self._change(pod, is_held=not pod.is_ready),
            self._vanish,
        ]
        if pod is not None:
            self.chance.choice(events)(pod)
        self._check()

    def _begin_episode(self, pod: SimPod) -> None:
        if pod.env_idx is not None and pod.can_run and not pod.is_drained:
            pod.is_busy = True  # nothing in the API server changes

    def _wish(self) -> None:
        """A router whose reset hangs wants an env_idx elsewhere. It may not know of the last move."""
        for pod in self.pods.values():
            if pod.env_idx is not None and pod.can_run:
                self._begin_episode(pod)
                self.wishes = {Wish(pod.env_idx, pod.uid, pod.epoch - self.chance.choice([0, 0, 1]))}
                self.wished |= self.wishes
                return

    def _vanish(self, pod: SimPod) -> None:
        if pod.is_terminating and not pod.is_busy:
            del self.pods[pod.slot]

    def _change(self, pod: SimPod, **values: object) -> None:
        if pod.is_failed and values.get("is_ready"):
            return
        for name, value in values.items():
            setattr(pod, name, value)
        pod.version += 1

    def _seen(self, pod: SimPod) -> PodView:
        return PodView(
            name=f"pool-{pod.slot}",
            slot=pod.slot,
            uid=pod.uid,
            resource_version=str(pod.version),
            created_s=pod.created_s,
            revision=pod.revision,
            env_idx=pod.env_idx,
            epoch=pod.epoch,
            is_ready=pod.is_ready and not pod.is_drained,
            is_down=pod.is_down,
            is_failed=pod.is_failed,
            unready_s=pod.unready_s,
            silent_s=pod.silent_s if pod.is_ready else None,
            is_terminating=pod.is_terminating,
            is_busy=self.chance.choice([pod.is_busy, None]) if pod.silent_s is None else None,
            is_sent_away=pod.is_sent_away,
            is_drained=pod.is_drained,
            is_retired=pod.is_retired,
            node=pod.node,
            node_name="n",
            hold=Hold(ConditionReason.NO_KVM_DEVICE, "") if pod.is_held else None,
            address="10.0.0.1",
        )

    def _current(self, seen: PodView) -> SimPod | None:
        """Return the pod that was looked at, if it has not changed since."""
        pod = self.pods.get(seen.slot)
        return pod if pod and pod.uid == seen.uid and str(pod.version) == seen.resource_version else None

    def _do(self, action: Action, epoch: int) -> None:
        if isinstance(action, Create):
            self._create(action.slot)
        elif isinstance(action, Assign):
            self._assign(action, epoch)
        elif isinstance(action, Release):
            if pod := self._current(action.pod):
                self._change(pod, env_idx=None, epoch=0)
        elif isinstance(action, Drain):
            pod = self.pods.get(action.pod.slot)
            if pod and pod.uid == action.pod.uid and pod.can_run and not pod.is_busy and pod.silent_s is None:
                self._change(pod, is_drained=True)
        elif pod := self._current(action.pod):
            self._delete(pod, action.pod)

    def _create(self, slot: int) -> None:
        if slot in self.pods:
            return  # AlreadyExists
        self.created += 1
        self.pods[slot] = SimPod(slot, f"uid-{self.created}", self.clock_s, self.revision)

    def _assign(self, action: Assign, epoch: int) -> None:
        if action.after is not None:
            old = self._current(action.after)
            if old is None:
                return
            is_wished = action.is_wished and Wish(action.env_idx, old.uid, old.epoch) in self.wished
            may_lose_it = is_wished or old.is_drained or _is_given_up(action.after) or (old.unready_s or 0) >= 1
            if old.is_busy and old.can_run and not may_lose_it:
                raise RuleBrokenError(f"an episode that could go on lost its env_idx: {old}")
            self._change(old, env_idx=None, epoch=0, is_retired=action.is_wished)
        if pod := self._current(action.pod):
            if not pod.can_run or pod.is_drained or pod.is_terminating or pod.is_retired:
                raise RuleBrokenError(f"an env_idx went to a pod that cannot serve: {pod}")
            self._change(pod, env_idx=action.env_idx, epoch=epoch)

    def _delete(self, pod: SimPod, seen: PodView) -> None:
        if pod.can_run and not (pod.is_drained or pod.is_retired or _is_given_up(seen)):
            raise RuleBrokenError(f"deleted without its consent: {pod}")
        if pod.node is NodeState.LOST:
            raise RuleBrokenError(f"deleted on a lost node: {pod}")
        self._change(pod, is_terminating=True)

    def _check(self) -> None:
        held: dict[int, SimPod] = {}
        for pod in self.pods.values():
            if pod.env_idx is None:
                continue
            if pod.env_idx in held:
                raise RuleBrokenError(f"two pods have env_idx {pod.env_idx}")
            held[pod.env_idx] = pod


def _is_given_up(seen: PodView) -> bool:
    """Whether it had not answered for so long that nobody waits for it. It may answer by now: nobody can know."""
    return seen.silent_s is not None and seen.silent_s >= SILENT_S


def _refuse_too_many(view: PoolView, actions: list[Action]) -> None:
    """A pod that is alive, may stay and has no number above the last is one of those that were asked for."""
    staying = [pod for pod in view.pods if pod.node is not NodeState.LEAVING and not pod.is_sent_away]
    counted = [pod for pod in staying if pod.is_alive]
    kept = [pod for pod in counted if pod.env_idx is None or pod.env_idx < view.replicas]
    deleted = {action.pod.uid for action in actions if isinstance(action, Delete)}
    there = sum(pod.uid not in deleted for pod in kept)
    creates = sum(isinstance(action, Create) for action in actions)
    if creates and there + creates > view.replicas + view.spares:
        raise RuleBrokenError(f"{creates} new pods beside {there} for {view.replicas} + {view.spares}")
