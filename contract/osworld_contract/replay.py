"""A replay: what an env server needs to bring a lost episode to where it was, and how it says that it could.

An env server puts `HEADER_SIGHT` on its reply to a reset or step if that may be played again on another desktop, and on
no other. A router notes it beside the bodies that it passed on, and later posts all of it to ``/replay`` of another
env server as one `ReplayRequest`. A router that has not seen the whole episode, such as one that has just started, asks
the env server that plays it, by ``/journal``. Where both are lost, with their node, a client that keeps its own journal
posts that to another router, by ``/env/journal``.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field

from osworld_contract.wire import ResetRequest, StepRequest

REPLAY_PATH: Final = "/replay"
JOURNAL_PATH: Final = "/journal"
OWN_JOURNAL_PATH: Final = "/env/journal"

EPISODE_BYTES: Final = 24 * 1024 * 1024
"""Most that is kept of one episode. Below the 32 MiB of a body that an env server takes."""

PAUSE_MAX_S: Final = 3600.0
STEPS_MAX: Final = 1000
"""Bounds of what an env server takes. Far above what fits the deadline of any call; an episode has no more actions."""

HEADER_SIGHT: Final = "X-Osworld-Sight"
"""On a reply to a reset or step: a `Mark`. Without it an episode is never played again. A router passes it on to v2
clients."""

_STILL: Final = ";still"
_MARK: Final = re.compile(
    r"(?P<episode>[0-9a-f]{32});(?P<number>\d{1,6});(?P<again>[01]);(?P<windows>[0-9a-f]{32})(?P<still>;still)?"
)


@dataclass(frozen=True)
class Mark:
    """What an env server says of the state after a reset or step."""

    episode_id: str
    number: int
    """Steps of the episode that were answered, this one included; 0 after the reset."""
    can_evaluate_again: bool
    """Whether a second evaluate, elsewhere, may follow one that may have begun: the task has no postconfig."""
    windows: str
    """Digest of window list and focused title."""
    stands_still: bool = False
    """Whether the desktop is paused between calls: no time passes in it then, nor has to when it is played again."""

    @property
    def header(self) -> str:
        """Value of `HEADER_SIGHT`."""
        still = _STILL if self.stands_still else ""
        return f"{self.episode_id};{self.number};{int(self.can_evaluate_again)};{self.windows}{still}"

    @classmethod
    def parse(cls, value: str) -> Self | None:
        """Return the mark in a header's `value`, None where it is none."""
        found = _MARK.fullmatch(value)
        if found is None:
            return None
        again, still = found["again"] == "1", found["still"] is not None
        return cls(found["episode"], int(found["number"]), again, found["windows"], still)


class Sight(BaseModel):
    """What was seen after a reset or step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: str = Field(pattern=r"^[0-9a-f]{32}$")
    """As in `Mark`."""
    screen_b64: str | None = Field(pattern=r"^[A-Za-z0-9+/]*=*$")
    """The screenshot that the client got, in base64; None where its reply had none."""


class ReplayedStep(BaseModel):
    """A step that was answered, and how long after the reply before it came."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pause_s: float = Field(ge=0, le=PAUSE_MAX_S)
    call: StepRequest
    key: str | None = None
    """By which a repeat of it is known."""
    seen: Sight


class ReplayRequest(BaseModel):
    """Body of ``POST /replay``: an episode up to the call that was lost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    call: ResetRequest
    key: str | None = None
    seen: Sight
    steps: tuple[ReplayedStep, ...] = Field(default=(), max_length=STEPS_MAX)
    pause_s: float = Field(default=0, ge=0, le=PAUSE_MAX_S)
    """How long after the last reply the lost call came."""
    is_delivered: bool = True
    """Whether the client has the last reply, as far as is known. Without it there is no score."""
    replay_of: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    """Id of the episode that was lost, for the record."""


class JournalTaken(BaseModel):
    """Reply of ``POST /env/journal``."""

    steps: int
    """How many steps of the episode are known now."""


class ReplayReply(BaseModel):
    """Reply of ``POST /replay``: the episode has come to where it was."""

    episode_id: str
    """Of the episode that was begun for it."""
    predictions: int


class EpisodeJournal(BaseModel):
    """The episode under way, which may be played again elsewhere.

    Reply of an env server's ``GET /journal``, and body of a router's ``POST /env/journal``, from a client.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    episode_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    can_evaluate_again: bool
    """As in `Mark`."""
    stands_still: bool = False
    """As in `Mark`."""
    may_be_evaluated: bool
    """Whether an evaluate has begun."""
    idle_s: float = Field(ge=0)
    """How long ago the last reply was ready, or came."""
    took_s: tuple[float, ...]
    """How long the reset took, and each step."""
    episode: ReplayRequest
