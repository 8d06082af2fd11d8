"""The operator's metrics."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from osworld_contract.names import METRIC_PREFIX

RECONCILE_BUCKETS_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class OperatorMetrics:
    """All of them, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            f"{METRIC_PREFIX}operator_reconcile_seconds",
            "Time of one round over a pool, by result",
            ["namespace", "pool", "result"],
            buckets=RECONCILE_BUCKETS_S,
            registry=self.registry,
        )
        self.actions = Counter(
            f"{METRIC_PREFIX}operator_actions",
            "What was done to env pods, by action and result",
            ["namespace", "pool", "action", "result"],
            registry=self.registry,
        )
        self.moves = Counter(
            f"{METRIC_PREFIX}operator_moves",
            "Routers' wishes that an env_idx goes to a spare, by what they were answered",
            ["namespace", "pool", "result"],
            registry=self.registry,
        )
        self.pool_envs = Gauge(
            f"{METRIC_PREFIX}pool_envs",
            "Envs and pods of a pool, by state",
            ["namespace", "pool", "state"],
            registry=self.registry,
        )

        self.leader = Gauge(
            f"{METRIC_PREFIX}operator_leader",
            "Whether this operator is the one writer (1) or stands by (0)",
            registry=self.registry,
        )

    def stand_by(self, namespace: str, pool: str) -> None:
        """Drop what only the leader knows of a pool."""
        self.pool_envs.remove_by_labels({"namespace": namespace, "pool": pool})

    def forget(self, namespace: str, pool: str) -> None:
        """Drop the series of a pool that is gone."""
        for metric in (self.reconcile_seconds, self.actions, self.moves, self.pool_envs):
            metric.remove_by_labels({"namespace": namespace, "pool": pool})
