"""What a client keeps of its episode, so that a router that knows nothing of it can have it played again.

Router and env server know the episode, and may both be lost with the machine they share. Only replies that may be
played again (`HEADER_SIGHT`) are kept, in one unbroken sequence from the reset on; an episode with a gap is not.
"""

import time
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from osworld_contract.replay import EPISODE_BYTES, PAUSE_MAX_S, EpisodeJournal, Mark, ReplayedStep, ReplayRequest, Sight
from osworld_contract.wire import EnvReply, ImageItem, ResetRequest, StepRequest

SLACK_BYTES: Final = 1024 * 1024
"""Room below `EPISODE_BYTES` for names and numbers. A guess with room: a step has some 200 bytes of them."""


@dataclass(frozen=True)
class Answered:
    """A reset or step whose reply is here."""

    body: dict[str, JsonValue]
    key: str
    sight: str | None
    """Value of `HEADER_SIGHT` on the reply, None where it had none."""
    reply: EnvReply
    sent: float
    """When the call was made, on the monotonic clock."""
    came: float
    """When its reply came, likewise."""


@dataclass(frozen=True)
class _Call:
    body: dict[str, JsonValue]
    key: str
    seen: Sight
    pause_s: float
    took_s: float


class OwnJournal:
    """One episode at a time."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._mark: Mark | None = None
        """The last one."""
        self._answered = 0.0
        """When the last reply came, on the monotonic clock."""
        self._size_bytes = 0
        self._may_be_evaluated = False

    def clear(self) -> None:
        """Keep nothing until the next reset. Can be called twice."""
        self._calls, self._mark, self._size_bytes, self._may_be_evaluated = [], None, 0, False

    def note_evaluate(self) -> None:
        """Note that an evaluate may begin."""
        self._may_be_evaluated = True

    def note(self, answered: Answered) -> None:
        """Add a call to the episode; a reset begins another one."""
        mark = Mark.parse(answered.sight or "")
        if mark is None or mark.number == 0:
            self.clear()
        if mark is None:
            return
        if self._calls and mark.number == len(self._calls) - 1 and answered.key == self._calls[-1].key:
            self._answered = answered.came  # the last call's reply, sent again
            return
        pause_s = max(0.0, answered.sent - self._answered) if self._calls and not mark.stands_still else 0.0
        screen = _last_screen(answered.reply)
        self._size_bytes += len(str(answered.body)) + len(screen or "")
        is_next = mark.number == len(self._calls) and pause_s <= PAUSE_MAX_S
        is_shown = screen is not None or answered.reply.obs_messages is None  # ``since`` may ask for less than that
        if not is_next or not is_shown or self._size_bytes > EPISODE_BYTES - SLACK_BYTES:
            self.clear()
            return
        seen = Sight(windows=mark.windows, screen_b64=screen)
        self._calls.append(_Call(answered.body, answered.key, seen, pause_s, answered.came - answered.sent))
        self._mark, self._answered = mark, answered.came

    def document(self) -> bytes | None:
        """Return the JSON of an `EpisodeJournal`, None where the episode must not be played again."""
        if self._mark is None:
            return None
        first, *steps = self._calls
        episode = ReplayRequest(
            call=ResetRequest.model_validate(first.body),
            key=first.key,
            seen=first.seen,
            steps=tuple(
                ReplayedStep(
                    pause_s=step.pause_s, call=StepRequest.model_validate(step.body), key=step.key, seen=step.seen
                )
                for step in steps
            ),
        )
        said = EpisodeJournal(
            episode_id=self._mark.episode_id,
            can_evaluate_again=self._mark.can_evaluate_again,
            stands_still=self._mark.stands_still,
            may_be_evaluated=self._may_be_evaluated,
            idle_s=max(0.0, time.monotonic() - self._answered),
            took_s=tuple(call.took_s for call in self._calls),
            episode=episode,
        )
        return said.model_dump_json().encode()


def _last_screen(reply: EnvReply) -> str | None:
    """Return the base64 of the last screenshot of `reply`, None where it has none."""
    images = (
        item.b64
        for message in reversed(reply.obs_messages or [])
        for item in reversed(message.content)
        if isinstance(item, ImageItem)
    )
    return next(images, None)
