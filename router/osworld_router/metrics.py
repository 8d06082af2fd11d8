"""Metrics of the router. No label ever holds an env_idx, a task or a pod."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from osworld_contract.faults import Fault
from osworld_contract.names import METRIC_PREFIX
from osworld_router.resolve import Operation

BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0)
"""From 50 ms to the 20 min for which a trainer waits for a reset."""

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST.encode()

CLIENT_GONE: Final = "client_gone"
BROKEN: Final = "broken"
"""Values of ``code`` where no status says what happened."""


class Metrics:
    """The metrics of one router, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Histogram(
            f"{METRIC_PREFIX}router_request_seconds",
            "Time from a call's arrival to the end of its reply.",
            ("operation", "code"),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._upstream = Histogram(
            f"{METRIC_PREFIX}router_upstream_seconds",
            "Time of one attempt at an env server.",
            ("operation",),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._retries = Counter(
            f"{METRIC_PREFIX}router_retries_total",
            "Attempts that were made after one that failed, by how that failed.",
            ("operation", "reason"),
            registry=self._registry,
        )
        self._acks = Counter(
            f"{METRIC_PREFIX}router_acks_total",
            "Acknowledgements of replies that a client has, by whether the env server got them.",
            ("result",),
            registry=self._registry,
        )
        self._hedges = Counter(
            f"{METRIC_PREFIX}router_hedges_total",
            "Resets for which another env server was asked for, by what came of it.",
            ("result",),
            registry=self._registry,
        )
        self._recoveries = Counter(
            f"{METRIC_PREFIX}router_recoveries_total",
            "Lost episodes that were to be played again on another desktop, by what came of it.",
            ("result",),
            registry=self._registry,
        )
        self._faults = Counter(
            f"{METRIC_PREFIX}faults_total",
            "Faults that the router itself answered with.",
            ("kind", "reason", "operation"),
            registry=self._registry,
        )
        self._envs = Gauge(
            f"{METRIC_PREFIX}router_envs", "Envs of the pool by state.", ("state",), registry=self._registry
        )

    def request_ended(self, operation: Operation, code: str, seconds: float) -> None:
        """Count a call."""
        self._requests.labels(operation.value, code).observe(seconds)

    def attempt_ended(self, operation: Operation, seconds: float) -> None:
        """Count an attempt."""
        self._upstream.labels(operation.value).observe(seconds)

    def retried(self, operation: Operation, fault: Fault) -> None:
        """Count an attempt that is made because the one before ended in `fault`."""
        self._retries.labels(operation.value, fault.reason.value).inc()

    def ack_ended(self, result: str) -> None:
        """Count an acknowledgement."""
        self._acks.labels(result).inc()

    def hedged(self, result: str) -> None:
        """Count a reset for which another env server was asked for."""
        self._hedges.labels(result).inc()

    def recovered(self, result: str) -> None:
        """Count an episode that was to be played again."""
        self._recoveries.labels(result).inc()

    def fault_answered(self, fault: Fault) -> None:
        """Count a fault."""
        self._faults.labels(fault.kind.value, fault.reason.value, fault.operation or "none").inc()

    def envs_counted(self, counts: dict[str, int]) -> None:
        """Take over how many envs are in which state."""
        for state, count in counts.items():
            self._envs.labels(state).set(count)

    def exposition(self) -> bytes:
        """Return all of it in Prometheus's text format."""
        return generate_latest(self._registry)
