"""Faults: what went wrong, whose doing it was, and what may be done about it.

``FaultError``      raised by every part where a caller is to get a fault
``Fault``           the same as data: in replies, logs, ``/state`` and records
``FaultReason``     the closed list of reasons; `SPECS` says what each means

A fault is never a score and never a format penalty (design, "Reward integrity").
"""

from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class FaultKind(StrEnum):
    """Whose doing a fault was."""

    INFRA = "infra"
    """A machine, process or network of ours."""
    TASK = "task"
    """The task's setup could not be done."""
    EVALUATOR = "evaluator"
    """The task's evaluator could not compute a score."""
    AGENT = "agent"
    """The agent asked for something that cannot be done."""
    CLIENT = "client"
    """The caller's request was wrong, or came at the wrong time."""


class FaultReason(StrEnum):
    """What went wrong. The value is part of the public API: metrics, headers and records carry it."""

    DESKTOP_START_FAILED = "desktop_start_failed"
    DESKTOP_LOST = "desktop_lost"
    DESKTOP_UNCLEAN = "desktop_unclean"
    GUEST_UNREACHABLE = "guest_unreachable"
    GUEST_TIMEOUT = "guest_timeout"
    SCREENSHOT_MISSING = "screenshot_missing"
    ACTION_FAILED = "action_failed"
    DISK_FULL = "disk_full"
    IMAGE_UNAVAILABLE = "image_unavailable"
    IMAGE_INVALID = "image_invalid"
    WORKER_START_FAILED = "worker_start_failed"
    WORKER_LOST = "worker_lost"
    WORKER_MEMORY = "worker_memory"
    OPERATION_TIMEOUT = "operation_timeout"
    ENV_DOWN = "env_down"
    ENV_TIMEOUT = "env_timeout"
    ENV_DRAINING = "env_draining"
    REPLY_LOST = "reply_lost"
    REPLAY_DIVERGED = "replay_diverged"
    CANARY_WRONG = "canary_wrong"
    INTERNAL = "internal"

    SETUP_FAILED = "setup_failed"
    SETUP_TIMEOUT = "setup_timeout"
    DOWNLOAD_FAILED = "download_failed"
    SETUP_MODULE_MISSING = "setup_module_missing"

    EVALUATE_FAILED = "evaluate_failed"
    EVALUATE_TIMEOUT = "evaluate_timeout"
    EVALUATOR_MODULE_MISSING = "evaluator_module_missing"

    ACTION_REFUSED = "action_refused"

    BAD_REQUEST = "bad_request"
    BAD_TASK = "bad_task"
    BODY_TOO_LARGE = "body_too_large"
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNKNOWN_ENV = "unknown_env"
    BUSY = "busy"
    NO_EPISODE = "no_episode"
    EPISODE_OVER = "episode_over"
    STALE_EPOCH = "stale_epoch"
    WRONG_SERVER = "wrong_server"


@dataclass(frozen=True)
class ReasonSpec:
    """What is fixed about a reason: its kind, HTTP status, and whether a retry can help."""

    kind: FaultKind
    status: int
    retryable: bool
    meaning: str

    @property
    def is_masked(self) -> bool:
        """A sample is masked unless the agent itself is to blame for it."""
        return self.kind is not FaultKind.AGENT


def _infra(status: int, meaning: str, *, retryable: bool = True) -> ReasonSpec:
    return ReasonSpec(FaultKind.INFRA, status, retryable, meaning)


def _task(status: int, meaning: str, *, retryable: bool) -> ReasonSpec:
    return ReasonSpec(FaultKind.TASK, status, retryable, meaning)


def _evaluator(status: int, meaning: str, *, retryable: bool) -> ReasonSpec:
    return ReasonSpec(FaultKind.EVALUATOR, status, retryable, meaning)


def _client(status: int, meaning: str, *, retryable: bool = False) -> ReasonSpec:
    return ReasonSpec(FaultKind.CLIENT, status, retryable, meaning)


SPECS: dict[FaultReason, ReasonSpec] = {
    FaultReason.DESKTOP_START_FAILED: _infra(503, "the desktop did not come up"),
    FaultReason.DESKTOP_LOST: _infra(503, "the desktop, its screen or its guest agent ended"),
    FaultReason.DESKTOP_UNCLEAN: _infra(503, "something of the episode before was still there after the reset"),
    FaultReason.GUEST_UNREACHABLE: _infra(503, "the guest agent refused or dropped the connection"),
    FaultReason.GUEST_TIMEOUT: _infra(504, "the guest agent did not answer in time"),
    FaultReason.SCREENSHOT_MISSING: _infra(503, "no valid screenshot could be had"),
    FaultReason.ACTION_FAILED: _infra(503, "the guest could not carry out an action that is well formed"),
    FaultReason.DISK_FULL: _infra(507, "no space is left on the disk"),
    FaultReason.IMAGE_UNAVAILABLE: _infra(503, "the virtual machine's image cannot be had from its address"),
    FaultReason.IMAGE_INVALID: _infra(
        503, "the virtual machine's image is damaged, has the wrong hash or is not allowed", retryable=False
    ),
    FaultReason.WORKER_START_FAILED: _infra(503, "the task worker did not start"),
    FaultReason.WORKER_LOST: _infra(503, "the task worker ended in the middle of its work"),
    FaultReason.WORKER_MEMORY: _infra(503, "the task worker went over its memory limit and was ended"),
    FaultReason.OPERATION_TIMEOUT: _infra(504, "the operation did not end by its deadline"),
    FaultReason.ENV_DOWN: _infra(503, "the env server of this env_idx cannot be reached"),
    FaultReason.ENV_TIMEOUT: _infra(504, "the env server did not answer in time"),
    FaultReason.ENV_DRAINING: _infra(503, "the env server is being drained and takes no new episode"),
    FaultReason.REPLY_LOST: _infra(
        503, "the reply before reached nobody, so nobody knows what a score would be for", retryable=False
    ),
    FaultReason.REPLAY_DIVERGED: _infra(
        503, "a lost episode, played again on another desktop, did not come to what was seen before", retryable=False
    ),
    FaultReason.CANARY_WRONG: _infra(503, "this desktop scored an episode wrong whose score is known"),
    FaultReason.INTERNAL: _infra(500, "a defect of osworld-env itself; the log has the traceback"),
    FaultReason.SETUP_FAILED: _task(503, "a setup step of the task failed", retryable=True),
    FaultReason.SETUP_TIMEOUT: _task(504, "the task's setup did not end by its deadline", retryable=True),
    FaultReason.DOWNLOAD_FAILED: _task(503, "a file that the task needs could not be fetched", retryable=True),
    FaultReason.SETUP_MODULE_MISSING: _task(501, "a setup step needs a module that is not installed", retryable=False),
    FaultReason.EVALUATE_FAILED: _evaluator(503, "the evaluator raised instead of giving a score", retryable=True),
    FaultReason.EVALUATE_TIMEOUT: _evaluator(504, "the evaluator did not end by its deadline", retryable=True),
    FaultReason.EVALUATOR_MODULE_MISSING: _evaluator(
        501, "the evaluator needs a module that is not installed", retryable=False
    ),
    FaultReason.ACTION_REFUSED: ReasonSpec(
        FaultKind.AGENT, 422, retryable=False, meaning="the agent asked for an action that no desktop can do"
    ),
    FaultReason.BAD_REQUEST: _client(422, "the body is not what this call takes"),
    FaultReason.BAD_TASK: _client(422, "the task is not a valid OSWorld task"),
    FaultReason.BODY_TOO_LARGE: _client(413, "the body is larger than this server takes"),
    FaultReason.UNAUTHORIZED: _client(401, "the token is missing or wrong"),
    FaultReason.NOT_FOUND: _client(404, "there is no such path"),
    FaultReason.METHOD_NOT_ALLOWED: _client(405, "this path does not take that method"),
    FaultReason.UNKNOWN_ENV: _client(404, "no env has this env_idx"),
    FaultReason.BUSY: _client(409, "another operation of this env is under way", retryable=True),
    FaultReason.NO_EPISODE: _client(503, "there is no episode: reset first"),
    FaultReason.EPISODE_OVER: _client(409, "the episode is over: evaluate or reset"),
    FaultReason.STALE_EPOCH: _client(421, "the env_idx has moved to another env server", retryable=True),
    FaultReason.WRONG_SERVER: _client(421, "another env server has this address by now", retryable=True),
}


class Fault(BaseModel):
    """One fault as it is sent, logged and recorded."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: FaultKind
    reason: FaultReason
    message: str = Field(max_length=4000)
    retryable: bool
    masked: bool
    operation: str | None = None
    """reset, step, evaluate, history, or None where the fault belongs to no operation."""
    evidence: dict[str, JsonValue] = Field(default_factory=dict)
    """Exit codes, argv, phases, last log lines: what a person needs to see why. Never a secret."""

    @property
    def header(self) -> str:
        """Value of the fault header."""
        return f"{self.kind}/{self.reason}"

    @property
    def status(self) -> int:
        """HTTP status for this fault where it is an error reply."""
        return SPECS[self.reason].status


class FaultBody(BaseModel):
    """The one body of every HTTP error. ``detail`` repeats the message for clients that read FastAPI's field."""

    fault: Fault
    detail: str

    @classmethod
    def of(cls, fault: Fault) -> "FaultBody":
        """Return the body for `fault`."""
        return cls(fault=fault, detail=fault.message)


_MESSAGE_LIMIT = 4000


class FaultError(Exception):
    """Carries a `Fault` to whoever answers the caller."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"{fault.kind}/{fault.reason}: {fault.message}")
        self.fault = fault


def fault_error(
    reason: FaultReason, message: str = "", *, operation: str | None = None, **evidence: JsonValue
) -> FaultError:
    """Return a `FaultError` for `reason`, with what `SPECS` fixes about it filled in.

    `message` says what happened in one sentence, without secrets; empty means the reason's own meaning.
    """
    spec = SPECS[reason]
    return FaultError(
        Fault(
            kind=spec.kind,
            reason=reason,
            message=(message or spec.meaning)[:_MESSAGE_LIMIT],
            retryable=spec.retryable,
            masked=spec.is_masked,
            operation=operation,
            evidence=evidence,
        )
    )
