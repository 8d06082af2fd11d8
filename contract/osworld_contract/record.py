"""The record of an episode on disk: what an env server writes and what ``osworld-env episodes`` reads.

One folder for each episode: ``task.json`` (the task as it came), ``episode.jsonl`` (a `RecordHead`, then a `RecordLine`
for each call) and the screenshots that the lines name.
"""

import base64
import re
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from osworld_contract.faults import Fault

RECORD_FILE: Final = "episode.jsonl"
TASK_FILE: Final = "task.json"
RECORD_VERSION: Final = 1

EPISODE_ID: Final = re.compile(r"^[0-9a-f]{32}$")
"""Form of an episode's id, which names its folder."""

END_CHARS: Final = 8192
END_MESSAGE_CHARS: Final = 500
"""Bounds of a `RecordEnd` in a header and of the message in it: servers take 16 KiB of headers and more."""


class RecordHead(BaseModel):
    """First line: which episode this is."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Literal[1] = RECORD_VERSION
    episode_id: str = Field(min_length=1)
    task_id: str
    instruction: str
    provider: str
    pool: str
    uid: str = ""
    """Name of the env server."""
    began: float
    """Unix time in seconds."""
    replay_of: str | None = None
    """Id of the episode that was lost and goes on here, played again up to the call that was lost."""


class RecordLine(BaseModel):
    """One call and what came of it. An evaluate has a score or a fault, never both.

    Two are no calls of a client. A ``replay`` stands after the calls that were played again, with the fault if that
    failed. A ``between`` has a fault that came while no call was under way; its duration is the time since the last.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    operation: Literal["reset", "step", "replay", "evaluate", "between"]
    at: float
    """Unix time in seconds at which it ended."""
    duration_s: float
    replayed: bool = False
    """Whether it was played again: its client had had the reply already."""
    prediction: str | None = None
    actions: list[str] = Field(default_factory=list)
    """What the prediction was carried out as, in OSWorld's form."""
    screenshot: str | None = None
    """Name of the file with the screen afterwards; None where the reply had none."""
    is_done: bool = False
    format_reward: float = 0.0
    score: float | None = None
    fault: Fault | None = None


class RecordEnd(BaseModel):
    """The last line of a record as a router knows it: the fault that its client got, or the reply that it did not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    episode_id: str = Field(pattern=EPISODE_ID.pattern)
    operation: Literal["step", "evaluate"]
    at: float = Field(allow_inf_nan=False)
    """As in `RecordLine`."""
    duration_s: float = Field(ge=0, allow_inf_nan=False)
    fault: Fault

    @property
    def header(self) -> str:
        """Value of `HEADER_ENDED`, the message cut; evidence that does not fit is left out."""
        fault = self.fault.model_copy(update={"message": self.fault.message[:END_MESSAGE_CHARS]})
        value = _encoded(self.model_copy(update={"fault": fault}))
        if len(value) > END_CHARS:
            value = _encoded(self.model_copy(update={"fault": fault.model_copy(update={"evidence": {}})}))
        return value

    @classmethod
    def parse(cls, value: str) -> Self | None:
        """Return the end in a header's `value`, None where it is none."""
        if len(value) > END_CHARS:
            return None
        try:
            return cls.model_validate_json(base64.b64decode(value, altchars=b"-_", validate=True))
        except ValueError:
            return None

    @property
    def line(self) -> RecordLine:
        """The line that a record gets."""
        return RecordLine(operation=self.operation, at=self.at, duration_s=self.duration_s, fault=self.fault)


def _encoded(end: RecordEnd) -> str:
    return base64.urlsafe_b64encode(end.model_dump_json().encode()).decode()
