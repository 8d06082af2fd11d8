"""``spec.episode``, ``spec.snapshots`` and ``spec.tasks``: how episodes run."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, StringConstraints

from osworld_contract.crd.base import CrdModel, Rule
from osworld_contract.crd.desktop import SecretRef
from osworld_contract.crd.values import Duration, Quantity

ROUTER_RESET_TOTAL: Final = Duration("1140s")
ROUTER_STEP_TOTAL: Final = Duration("270s")
ROUTER_EVALUATE_TOTAL: Final = Duration("270s")
"""What the router gives a call in total: above one attempt of an env server, below the trainer's 1200, 300 and 300 s.

Source: design, "Deadlines nest"."""

TIMEOUT_MIN: Final = Duration("1s")
STEP_PAUSE_MAX: Final = Duration("60s")


class FormatReward(StrEnum):
    """Which rule rewards a prediction's format."""

    PLAIN = "plain"
    SHAPED = "shaped"


def _at_least(name: str, least: Duration, of: Callable[["Episode"], Duration]) -> Rule:
    return Rule(
        f".{name}",
        f"duration(self.{name}) >= duration('{least}')",
        f"{name} must be at least {least}",
        lambda episode: of(episode).seconds >= least.seconds,
    )


def _under_total(name: str, total: Duration, of: Callable[["Episode"], Duration]) -> Rule:
    return Rule(
        f".{name}",
        f"duration(self.{name}) < duration('{total}')",
        f"{name} must be less than {total}, the router's total for the call: deadlines nest",
        lambda episode: of(episode).seconds < total.seconds,
    )


class Episode(CrdModel):
    """How episodes run."""

    max_steps: Annotated[int, Field(ge=1, le=1000)] = 15
    """Actions of an episode. A larger one than the trainer's own ends its run."""
    step_pause: Duration = Duration("500ms")
    """Pause after each action. Another one than the trainer's 500ms changes the dynamics."""
    pause_between_steps: bool = True
    """Pause the desktop while the model thinks, where the provider can."""
    idle_timeout: Duration = Duration("30m")
    """Time without a call after which an episode ends."""
    canary_every: Duration = Duration("30m")
    """Time between canaries of an idle desktop: two episodes of known score. 0s turns them off."""
    reset_timeout: Duration = Duration("360s")
    """Deadline of a reset at an env server, its retries included."""
    step_timeout: Duration = Duration("120s")
    """Deadline of a step, pauses included."""
    evaluate_timeout: Duration = Duration("240s")
    """Deadline of an evaluate."""
    actions: Literal["arpo"] = "arpo"
    """Dialect of predictions."""
    format_reward: FormatReward = FormatReward.PLAIN
    """How a prediction's format is rewarded."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _at_least("resetTimeout", TIMEOUT_MIN, lambda episode: episode.reset_timeout),
        _at_least("stepTimeout", TIMEOUT_MIN, lambda episode: episode.step_timeout),
        _at_least("evaluateTimeout", TIMEOUT_MIN, lambda episode: episode.evaluate_timeout),
        _at_least("idleTimeout", TIMEOUT_MIN, lambda episode: episode.idle_timeout),
        _under_total("resetTimeout", ROUTER_RESET_TOTAL, lambda episode: episode.reset_timeout),
        _under_total("stepTimeout", ROUTER_STEP_TOTAL, lambda episode: episode.step_timeout),
        _under_total("evaluateTimeout", ROUTER_EVALUATE_TOTAL, lambda episode: episode.evaluate_timeout),
        Rule(
            ".stepPause",
            f"duration(self.stepPause) <= duration('{STEP_PAUSE_MAX}') && "
            "duration(self.stepPause) < duration(self.stepTimeout)",
            f"stepPause must be at most {STEP_PAUSE_MAX} and less than stepTimeout",
            lambda episode: (
                episode.step_pause.seconds <= STEP_PAUSE_MAX.seconds
                and episode.step_pause.seconds < episode.step_timeout.seconds
            ),
        ),
    )


class TaskSnapshots(CrdModel):
    """Templates after one task's setup, which serve its whole rollout group."""

    enabled: bool = True
    """Save one at a task's first reset, where that is safe and the cache is a hostPath or a claim."""
    max_per_node: Annotated[int, Field(ge=0, le=10_000)] = 32
    """How many a node keeps."""
    max_bytes: Quantity = Quantity("200Gi")
    """How much of a node's disk they may use."""


class Snapshots(CrdModel):
    """Frozen virtual machines to fork."""

    template: bool = True
    """Fork the booted desktop at each reset instead of booting it."""
    tasks: TaskSnapshots = Field(default_factory=TaskSnapshots)
    """Task snapshots."""


class Tasks(CrdModel):
    """What tasks' setups and evaluators need."""

    secret_ref: SecretRef | None = None
    """A Secret whose keys OPENAI_API_KEY, OPENAI_BASE_URL, HTTP_PROXY, HTTPS_PROXY and NO_PROXY, as far as they are
    there, reach the task worker, and nothing else of the env."""
    mirror: Annotated[str, StringConstraints(pattern="^/.+$", max_length=1024)] | None = None
    """Folder in the env pod with copies of the files that tasks download; mount it with podTemplate.volumes."""
