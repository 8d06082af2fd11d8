"""The state machine of one episode: what may follow what, and what is remembered of each step.

idle → resetting → running → done → evaluating → evaluated | faulted. No I/O happens here.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from osworld_contract.faults import Fault, FaultReason, fault_error
from osworld_contract.replay import Mark
from osworld_contract.task import Task
from osworld_contract.wire import DesktopStatus, EnvState, Phase
from osworld_envpod.admission import Tenancy
from osworld_envpod.delivery import Delivery
from osworld_envpod.history import History

_MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.IDLE: frozenset({Phase.RESETTING}),
    Phase.RESETTING: frozenset({Phase.RUNNING, Phase.FAULTED}),
    Phase.RUNNING: frozenset({Phase.DONE, Phase.EVALUATING, Phase.FAULTED, Phase.RESETTING, Phase.IDLE}),
    Phase.DONE: frozenset({Phase.EVALUATING, Phase.FAULTED, Phase.RESETTING, Phase.IDLE}),
    Phase.EVALUATING: frozenset({Phase.EVALUATED, Phase.FAULTED, Phase.RUNNING, Phase.DONE}),
    Phase.EVALUATED: frozenset({Phase.RESETTING, Phase.IDLE}),
    Phase.FAULTED: frozenset({Phase.RESETTING, Phase.EVALUATING, Phase.IDLE}),
}


@dataclass(frozen=True)
class Observation:
    """What a reset or step came to. `end` is the number of messages to show, None where the reply has none."""

    end: int | None
    is_done: bool
    format_reward: float
    fault: Fault | None = None
    mark: Mark | None = None
    """What the desktop looked like, where the episode may be played again on another one."""


@dataclass(frozen=True)
class RecordedStep:
    """A step that was answered, so that a repeat of it is answered alike and not carried out."""

    prediction: str
    key: str | None
    observation: Observation
    pause_s: float
    """How long after the reply before it came."""
    took_s: float


@dataclass
class Episode:
    """One episode and where it is. The phase changes by `move` alone."""

    task: Task | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    phase: Phase = Phase.IDLE
    since: float = field(default_factory=time.time)
    """Unix time in seconds at which the phase began."""
    history: History = field(default_factory=History)
    actions_done: int = 0
    """Actions carried out: what the maximum of steps counts."""
    action_history: list[str] = field(default_factory=list)
    """The actions in OSWorld's form, for its evaluator."""
    fault: Fault | None = None
    score: float | None = None
    desktop_number: int = 0
    """Which of the env server's desktops it is played on; see `Runner.desktop_number`."""
    is_canary: bool = False
    """Nobody's: it is counted apart; see `canary`."""
    is_counted: bool = False
    """Its end is in the metrics."""
    tenancy: Tenancy | None = None
    """Whose it is, where a router began it: an env server may lose its env_idx and get another one."""
    reset_key: str | None = None
    first_observation: Observation | None = None
    reset_took_s: float = 0.0
    answered: float = field(default_factory=time.monotonic)
    """When the last reply was ready, on the monotonic clock."""
    task_config: dict[str, JsonValue] = field(default_factory=dict)
    """The task as it came."""
    replay_of: str | None = None
    """Id of the lost episode that goes on as this one."""
    is_whole: bool = True
    """Whether all of it is here: not while it is played again, nor after that failed."""
    unscored_after: int | None = None
    """Answered steps when a score was last kept back; see `Ledger.note_unscored`."""
    delivery: Delivery = field(default_factory=Delivery)
    """Whether the reply of the last reset or step arrived."""
    refused_reset: Fault | None = None
    """Why a reset that came after it was refused. Its caller asks for a score next, and must not get this episode's."""
    _steps: list[RecordedStep] = field(default_factory=list)
    _step_of_key: dict[str, int] = field(default_factory=dict)

    @property
    def predictions(self) -> int:
        """Return how many steps were answered."""
        return len(self._steps)

    @property
    def steps(self) -> Sequence[RecordedStep]:
        """Return the steps that were answered."""
        return self._steps

    @property
    def last_key(self) -> str | None:
        """Return what the last reset or step was known by."""
        return self._steps[-1].key if self._steps else self.reset_key

    @property
    def last_observation(self) -> Observation | None:
        """Return what the last reset or step came to."""
        return self._steps[-1].observation if self._steps else self.first_observation

    def is_known_to(self, tenancy: Tenancy | None) -> bool:
        """Return whether one who calls for `tenancy` may have it; who is no router means whatever is here."""
        return tenancy is None or tenancy == self.tenancy or self.phase is Phase.IDLE

    def state(self, desktop: DesktopStatus, is_draining: bool, canary_fault: Fault | None) -> EnvState:
        """Return what ``/state`` shows of it, and of the env server that plays it."""
        return EnvState(
            phase=self.phase,
            since=self.since,
            episode_id=self.id if self.task else None,
            task_id=self.task.id if self.task else None,
            step=self.actions_done,
            predictions=self.predictions,
            is_draining=is_draining,
            desktop=desktop,
            fault=self.fault or canary_fault,
        )

    def move(self, phase: Phase) -> None:
        """Go to `phase`.

        Raises:
            RuntimeError: The move is not allowed; that is a defect of the caller.
        """
        if phase not in _MOVES[self.phase]:
            raise RuntimeError(f"an episode cannot go from {self.phase} to {phase}")
        self.phase = phase
        self.since = time.time()

    def fail(self, fault: Fault) -> None:
        """End the episode with `fault`."""
        self.fault = fault
        if self.phase is not Phase.FAULTED:
            self.move(Phase.FAULTED)

    def recorded(self, prediction: str, key: str | None, number: int | None) -> Observation | None:
        """Return the recorded observation if this step was answered before, None if it is the next one.

        Args:
            prediction: The model's text.
            key: Idempotency key, if the client sent one.
            number: Number of the step from 1, if the client sent one.

        Raises:
            FaultError: ``client/bad_request`` where key or number name a step that this cannot be.
        """
        known = self._step_of_key.get(key) if key is not None else None
        if known is None and number is not None:
            if not 1 <= number <= len(self._steps) + 1:
                raise fault_error(
                    FaultReason.BAD_REQUEST,
                    f"step {number} cannot follow: {len(self._steps)} steps of this episode were answered",
                    operation="step",
                )
            known = number if number <= len(self._steps) else None
        if known is None:
            return None
        step = self._steps[known - 1]
        if step.prediction != prediction:
            raise fault_error(
                FaultReason.BAD_REQUEST,
                f"step {known} was answered before with another prediction under the same key or number",
                operation="step",
            )
        return step.observation

    def begin(self, observation: Observation, took_s: float) -> None:
        """Remember that the reset was answered with `observation`."""
        self.first_observation, self.reset_took_s, self.answered = observation, took_s, time.monotonic()

    def record(self, prediction: str, key: str | None, observation: Observation, took_s: float = 0.0) -> None:
        """Remember that `prediction` was answered with `observation`."""
        pause_s = max(0.0, time.monotonic() - took_s - self.answered)
        self._steps.append(RecordedStep(prediction, key, observation, pause_s, took_s))
        self.answered = time.monotonic()
        if key is not None:
            self._step_of_key[key] = len(self._steps)
