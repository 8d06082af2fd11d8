"""Metrics of the env server. No label ever holds an env_idx, a task or a pod."""

from dataclasses import dataclass, field
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from osworld_contract.names import METRIC_PREFIX
from osworld_envpod.desktops.base import AcceleratorFact

SECONDS_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 240, 600, 1200)
"""From a step without a pause to a boot under emulation. Source: the limits in the design, 50 ms to 20 min."""

STEP_COUNT_BUCKETS = (1, 2, 3, 5, 8, 10, 15, 20, 30, 50)

ACCELERATORS: Final[tuple[AcceleratorFact, ...]] = get_args(AcceleratorFact)


@dataclass
class EnvMetrics:
    """The metrics, in a registry of their own so that a process can have more than one env server in tests."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        labels = ("pool", "provider", "result")
        self.reset_seconds = self._histogram("reset_seconds", "Seconds of a reset, setup included", labels)
        self.step_seconds = self._histogram("step_seconds", "Seconds of a step, pauses included", labels)
        self.evaluate_seconds = self._histogram("evaluate_seconds", "Seconds of an evaluate", labels)
        self.reset_stage_seconds = self._histogram("reset_stage_seconds", "Seconds of a reset's stages", ("stage",))
        self.episode_steps = Histogram(
            f"{METRIC_PREFIX}episode_steps", "Actions of an episode", registry=self.registry, buckets=STEP_COUNT_BUCKETS
        )
        self.faults = self._counter("faults", "Faults", ("kind", "reason", "operation"))
        self.episodes = self._counter("episodes", "Episodes that ended", ("result",))
        self.forks = self._counter("forks", "Clean desktops served", ("source",))
        self.desktop_up = Gauge(f"{METRIC_PREFIX}desktop_up", "1 while the desktop is ready", registry=self.registry)
        self.desktop_accelerator = Gauge(
            f"{METRIC_PREFIX}desktop_accelerator",
            "1 for what runs the desktop's instructions",
            ("accelerator", "wanted"),
            registry=self.registry,
        )
        self.canaries = self._counter("canaries", "Episodes of known score on an idle desktop", ("canary", "result"))
        self.canary_failed = Gauge(
            f"{METRIC_PREFIX}canary_failed", "1 once canaries took this desktop out", registry=self.registry
        )
        self.canary_noise_pixels = Gauge(
            f"{METRIC_PREFIX}canary_noise_pixels",
            "Pixels that differ between the screens of the last two identical episodes",
            registry=self.registry,
        )
        self.image_bytes = Gauge(
            f"{METRIC_PREFIX}image_bytes", "Bytes of the image that are fetched or unpacked", registry=self.registry
        )
        self.image_total_bytes = Gauge(
            f"{METRIC_PREFIX}image_total_bytes", "Bytes of the whole image, 0 if not known", registry=self.registry
        )

    def show_accelerator(self, accelerator: AcceleratorFact, wanted: str) -> None:
        """Show what runs the desktop's instructions, and what was asked for."""
        for each in ACCELERATORS:
            self.desktop_accelerator.labels(each, wanted).set(int(each == accelerator))

    def show_image(self, have_bytes: int, total_bytes: int) -> None:
        """Show how far the fetch of the image is."""
        self.image_bytes.set(have_bytes)
        self.image_total_bytes.set(total_bytes)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(f"{METRIC_PREFIX}{name}", text, labels, registry=self.registry, buckets=SECONDS_BUCKETS)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"{METRIC_PREFIX}{name}", text, labels, registry=self.registry)
