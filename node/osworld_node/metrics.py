"""The plugin's metrics, one registry per process."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from osworld_contract.names import METRIC_PREFIX

BUCKETS_S: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""A kernel without a disk ends after 2 s under KVM; a proof's deadline is 60 s."""


class NodeMetrics:
    """What is counted. The node is the scrape's label."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._ready = Gauge(f"{METRIC_PREFIX}node_kvm_ready", "1 while pods may be given KVM.", registry=self.registry)
        self._slots = Gauge(f"{METRIC_PREFIX}node_kvm_slots", "Slots advertised.", registry=self.registry)
        self._proofs = Counter(f"{METRIC_PREFIX}node_proofs", "Proofs by result.", ("result",), registry=self.registry)
        self._seconds = Histogram(
            f"{METRIC_PREFIX}node_proof_seconds", "How long proofs took.", buckets=BUCKETS_S, registry=self.registry
        )
        for result in ("passed", "failed"):
            self._proofs.labels(result)

    def note(self, *, passed: bool, seconds: float, ready: bool, slots: int) -> None:
        """Take over a proof, and what pods may be given after it."""
        self._proofs.labels("passed" if passed else "failed").inc()
        self._seconds.observe(seconds)
        self._ready.set(ready)
        self._slots.set(slots)
