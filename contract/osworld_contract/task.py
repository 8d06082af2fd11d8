"""An OSWorld task as it arrives in ``task_config``: checked at the edge, passed on unchanged."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from osworld_contract.faults import FaultReason, fault_error

INSTRUCTION_MAX_CHARS = 100_000
"""A guess with room: OSWorld's longest instruction has under 2,000 characters."""


class SetupStep(BaseModel):
    """One entry of ``config`` or of the evaluator's ``postconfig``."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(min_length=1)
    parameters: dict[str, JsonValue] = Field(default_factory=dict)


class Evaluator(BaseModel):
    """The task's evaluator, as ``DesktopEnv._set_evaluator_info`` of desktop-env 1.0.2 reads it."""

    model_config = ConfigDict(extra="allow")

    func: str | list[str] = Field(min_length=1)
    postconfig: list[SetupStep] = Field(default_factory=list)
    result: dict[str, JsonValue] | list[JsonValue] | None = None
    expected: dict[str, JsonValue] | list[JsonValue] | None = None

    @model_validator(mode="after")
    def _lists_are_of_one_length(self) -> "Evaluator":
        if isinstance(self.func, list):
            for name in ("result", "expected"):
                value = getattr(self, name)
                if isinstance(value, list) and value and len(value) != len(self.func):
                    raise ValueError(f"{name} has {len(value)} entries, func has {len(self.func)}")
        return self


class Task(BaseModel):
    """A task. Fields that are not named here are kept and ignored."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(default="", max_length=200)
    """Empty means: taken from ``task_id``, else from a digest of the task."""
    instruction: str = Field(max_length=INSTRUCTION_MAX_CHARS)
    config: list[SetupStep] = Field(default_factory=list)
    evaluator: Evaluator
    proxy: bool = False
    offline: bool = False
    """Its author's word that nothing in it reaches outside of the desktop: a lost episode may be played again even
    where the desktop has a network."""

    @model_validator(mode="before")
    @classmethod
    def _has_an_id(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("id"):
            digest = hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:16]
            task_id = data.get("task_id")
            return {**data, "id": str(task_id) if task_id else f"task-{digest}"}
        return data

    def as_config(self) -> dict[str, Any]:
        """Return the task in OSWorld's JSON form, for desktop-env."""
        return self.model_dump(mode="json", exclude_none=True, exclude_unset=True) | {"id": self.id}


def parse_task(task_config: dict[str, JsonValue]) -> Task:
    """Check `task_config` and return it as a `Task`.

    Raises:
        FaultError: ``client/bad_task`` that names the first wrong field and says what is accepted.
    """
    try:
        return Task.model_validate(task_config)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "task_config"
        raise fault_error(
            FaultReason.BAD_TASK, f"task_config: {field}: {first['msg']}", operation="reset", field=field
        ) from error
