"""A cluster in miniature for the operator's decisions: pods that start, fail, get lost and run episodes.

It does what `decide` asks as the API server would: an action whose pod has changed since it was looked at is refused.
It holds what must be true at every moment, and raises where it is not.
"""

import random
from collections.abc import Callable
from dataclasses import replace

from osworld_contract.crd import ConditionReason, UpdateStrategy
from osworld_operator.actions import Action, Assign, Create, Drain, Release
from osworld_operator.apart import Parting
from osworld_operator.decide import SILENT_S
from osworld_operator.swaps import STILL_S, Swaps
from osworld_operator.view import Hold, NodeState, PodView, PoolView, Wish
from pool_rules import RuleBrokenError, refuse_cut_off, refuse_too_many
from sim_pod import SimPod

HOSTS = ("n0", "n1")
"""Nodes. A scheduler puts a pod on any of them, most often on one that the pod likes."""

Decide = Callable[[PoolView], list[Action]]


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
        self.parting, self.swaps = Parting(), Swaps()
        self.room = chance.choice([HOSTS, HOSTS[:1]])
        """Nodes with room for a pod: one that is full looks like any other."""
        self.hosts: tuple[str, ...] = HOSTS
        self.foreign: list[SimPod] = []
        """Pods of the pool's object before this one. They stay."""

    @property
    def expected(self) -> int:
        """How many pods there are at rest."""
        return self.replicas + self.spares

    def view(self) -> PoolView:
        return PoolView(
            replicas=self.replicas,
            spares=self.spares,
            revision=self.revision,
            strategy=UpdateStrategy.WHEN_IDLE,
            max_unavailable=self.max_unavailable,
            pods=tuple(self._seen(pod) for pod in sorted(self.pods.values(), key=lambda pod: pod.slot)),
            foreign=tuple(map(self._seen, self.foreign)),
            wishes=frozenset(self.wishes),
            hosts=frozenset(self.hosts),
        )

    def round(self, steps: int | None = None, view: PoolView | None = None) -> list[Action]:
        """Decide and act; with `steps` the operator dies after so many actions."""
        view = view or self.view()
        view = replace(view, may_part=self.parting.may_try(view), may_swap=self.swaps.may_try(view, self.clock_s))
        actions = self.decide(view)
        self.parting.note(view, actions)
        self.swaps.note(view, actions)
        refuse_too_many(view, actions)
        refuse_cut_off(view, actions)
        moves = [action for action in actions if isinstance(action, Assign)]
        epoch, self.last_epoch = self.last_epoch, self.last_epoch + len(moves)
        epochs = {id(move): epoch + 1 + number for number, move in enumerate(moves)}
        for action in actions[:steps]:
            self._do(action, epochs.get(id(action), 0))
            self._check()
        if steps is not None:
            self.parting, self.swaps = Parting(), Swaps()
        return actions

    def settle(self, rounds: int = 90, *, is_patient: bool = False) -> None:
        """Let everything that is on its way arrive, with the operator at work, and every episode end."""
        quiet = 0
        for _ in range(rounds):
            self.clock_s += STILL_S
            for pod in list(self.pods.values()):
                pod.is_busy, pod.silent_s = False, None
                if pod.is_terminating and pod.node is not NodeState.LOST:
                    del self.pods[pod.slot]
                elif not pod.is_failed and not pod.is_drained and not pod.is_held and pod.node is not NodeState.LOST:
                    self._change(pod, is_ready=True, is_down=False, unready_s=None)
            quiet = quiet + 1 if self.is_at_rest(self.round()) else 0
            if quiet == 2:
                return
        if not is_patient:
            raise RuleBrokenError(f"never at rest: {self.decide(self.view())}\n{self.view()}")

    def is_at_rest(self, actions: list[Action]) -> bool:
        """Whether nothing is left to do, and all pods are up."""
        return not actions and all(pod.is_ready for pod in self.pods.values())

    def scale(self, replicas: int, spares: int) -> None:
        self.replicas, self.spares = replicas, spares

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
            lambda pod: self._change(pod, node=NodeState.DOUBTED),
            lambda pod: self._change(pod, node=NodeState.SOUND),
            lambda pod: self._change(pod, node=NodeState.LEAVING),
            lambda pod: self._change(pod, is_sent_away=True),
            lambda pod: self._change(pod, is_terminating=True),
            self._begin_episode,
            self.cut_off,
            lambda _: self.come_back(),
            lambda _: self._wish(),
            lambda _: self._wish(),
            lambda pod: setattr(pod, "silent_s", self.chance.choice([None, 1.0, 400.0, 1000.0])),
            lambda pod: self._change(pod, is_busy=False),
            lambda pod: self._change(pod, is_held=not pod.is_ready),
            lambda _: self._nodes_change(),
            lambda _: self._apply_again(),
            self._vanish,
        ]
        if pod is not None:
            self.chance.choice(events)(pod)
        self._check()

    def _begin_episode(self, pod: SimPod) -> None:
        if pod.env_idx is not None and pod.can_run and not pod.is_drained:
            pod.is_busy, pod.episode_epoch = True, pod.epoch  # nothing in the API server changes

    def cut_off(self, pod: SimPod) -> None:
        """Its node is away for a while, in the middle of an episode."""
        self._begin_episode(pod)
        self._change(pod, is_ready=False, unready_s=30.0)

    def come_back(self) -> None:
        """Pods that could not be reached are what they were."""
        for pod in self.pods.values():
            if pod.unready_s is not None and not pod.is_down:
                self._change(pod, is_ready=True, unready_s=None)

    def _nodes_change(self) -> None:
        self.hosts = self.chance.choice([HOSTS, HOSTS[:1]])

    def _apply_again(self) -> None:
        """Somebody deletes the pool, and applies it before its pods are gone."""
        if self.foreign:
            return
        self.foreign = list(self.pods.values())
        for pod in self.foreign:
            self._change(pod, is_terminating=True)
        self.pods, self.last_epoch = {}, 0

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
            is_ready=pod.is_ready and not (pod.is_drained or pod.node is NodeState.DOUBTED),
            is_down=pod.is_down,
            is_failed=pod.is_failed,
            unready_s=None if pod.node is NodeState.DOUBTED else pod.unready_s,
            silent_s=pod.silent_s if pod.is_ready else None,
            is_terminating=pod.is_terminating,
            is_busy=self.chance.choice([pod.is_busy, None]) if pod.silent_s is None else None,
            is_sent_away=pod.is_sent_away,
            is_drained=pod.is_drained,
            is_retired=pod.is_retired,
            node=pod.node,
            node_name=pod.node_name,
            hold=Hold(ConditionReason.NO_KVM_DEVICE, "") if pod.is_held else None,
            address="10.0.0.1",
        )

    def _current(self, seen: PodView) -> SimPod | None:
        """Return the pod that was looked at, if it has not changed since."""
        known = (pod for pod in (*self.pods.values(), *self.foreign) if pod.uid == seen.uid)
        return next((pod for pod in known if str(pod.version) == seen.resource_version), None)

    def _do(self, action: Action, epoch: int) -> None:
        if isinstance(action, Create):
            self._create(action)
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

    def _create(self, action: Create) -> None:
        if action.slot in self.pods or any(pod.slot == action.slot for pod in self.foreign):
            return  # AlreadyExists
        self.created += 1
        liked = [name for name in self.room if name not in action.avoid]
        name = self.chance.choice(liked if liked and self.chance.random() < 0.7 else self.room)
        self.pods[action.slot] = SimPod(action.slot, f"uid-{self.created}", self.clock_s, self.revision, node_name=name)

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
            if epoch <= pod.episode_epoch:
                raise RuleBrokenError(f"epoch {epoch} would find an episode of before: {pod}")
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
            if any(other.env_idx == pod.env_idx for other in self.foreign):
                raise RuleBrokenError(f"a pod of the object before has env_idx {pod.env_idx} as well")
            if pod.env_idx in held:
                raise RuleBrokenError(f"two pods have env_idx {pod.env_idx}")
            held[pod.env_idx] = pod


def _is_given_up(seen: PodView) -> bool:
    """Whether it had not answered for so long that nobody waits for it. It may answer by now: nobody can know."""
    return seen.silent_s is not None and seen.silent_s >= SILENT_S
