"""Clusters in miniature that have room for the pool's replicas and no more."""

from dataclasses import replace

from osworld_contract.crd import ConditionReason
from osworld_operator.actions import Action, Create
from osworld_operator.view import Hold, NodeState, PodView, PoolView
from pool_sim import SimCluster
from sim_pod import SimPod

UNFIT = "unfit"
"""A spec whose pods fit nowhere."""


class FullCluster(SimCluster):
    """Pods without a place are made, and wait for a node."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]  # passed on as they come
        self.places = self.replicas = self.chance.randint(1, 6)
        self.placed: set[str] = set()
        """By their uids."""

    def scale(self, replicas: int, spares: int) -> None:
        self.spares = spares

    def is_at_rest(self, actions: list[Action]) -> bool:
        return not actions and all(pod.is_ready or pod.uid not in self.placed for pod in self.pods.values())

    def view(self) -> PoolView:
        self._place()
        return super().view()

    def _place(self) -> None:
        """Be the scheduler."""
        self.placed &= {pod.uid for pod in self.pods.values()}
        for pod in sorted(self.pods.values(), key=lambda pod: pod.created_s):
            if len(self.placed) < self.places and pod.uid not in self.placed and pod.revision != UNFIT:
                self.placed.add(pod.uid)
                self._change(pod)

    def _change(self, pod: SimPod, **values: object) -> None:
        if pod.uid in self.placed or not values.keys() & {"is_ready", "is_failed", "node"}:
            super()._change(pod, **values)

    def _seen(self, pod: SimPod) -> PodView:
        found = super()._seen(pod)
        if pod.uid in self.placed or pod in self.foreign:
            return found
        hold = Hold(ConditionReason.NO_KVM_DEVICE, "")
        return replace(found, node=NodeState.NONE, node_name=None, hold=hold, address=None)


class MeanCluster(SimCluster):
    """Pods beyond a quota are refused. It counts those that end as well."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]  # passed on as they come
        self.quota = self.replicas = self.chance.randint(1, 6)

    @property
    def expected(self) -> int:
        return self.quota

    def scale(self, replicas: int, spares: int) -> None:
        self.spares = spares

    def is_at_rest(self, actions: list[Action]) -> bool:
        is_refused = len(self.pods) >= self.quota and all(isinstance(action, Create) for action in actions)
        return super().is_at_rest([] if is_refused else actions)

    def _create(self, action: Create) -> None:
        if len(self.pods) < self.quota:
            super()._create(action)
