"""The record of an episode on disk: what an env server writes and what ``osworld-env episodes`` reads.

One folder for each episode: ``task.json`` (the task as it came), ``episode.jsonl`` (a `RecordHead`, then a `RecordLine`
for each call) and the screenshots that the lines name.
"""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from osworld_contract.faults import Fault

RECORD_FILE: Final = "episode.jsonl"
TASK_FILE: Final = "task.json"
RECORD_VERSION: Final = 1


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

    A ``replay`` is no client's call: it stands after the calls that were played again, with the fault if that failed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    operation: Literal["reset", "step", "replay", "evaluate"]
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
