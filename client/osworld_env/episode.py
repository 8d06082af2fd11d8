"""One episode played from a script through the trainer's wire, and its record: timings, screenshots, score or fault."""

import base64
import binascii
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from osworld_contract.faults import Fault, FaultError, FaultReason, fault_error
from osworld_contract.wire import EnvReply, ImageItem
from osworld_env.client import EnvClient
from osworld_env.errors import CliError
from osworld_env.frames import CHANGED_SHARE, changed_share
from osworld_env.script import ScriptStep

_SUFFIXES: Final = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg"}
"""Screenshots are passed through as the guest made them; the first bytes tell the format."""

NO_CALLS: Final = frozenset({"replay", "between"})
"""Operations that are no calls of a client."""


@dataclass(frozen=True)
class Shot:
    """One call of an episode that ended in a reply or a fault."""

    operation: str
    """As in `RecordLine`."""
    duration_s: float
    prediction: str | None = None
    screenshot: Path | None = None
    """The file with the screenshot that came back, or None where none did."""
    is_done: bool = False
    format_reward: float = 0.0
    fault: Fault | None = None
    replayed: bool = False
    """Whether it was a call of the lost episode, played again."""


@dataclass
class EpisodeRecord:
    """What was played and what came of it. ``score`` and ``fault`` exclude each other."""

    name: str
    instruction: str
    shots: list[Shot] = field(default_factory=list)
    score: float | None = None
    fault: Fault | None = None
    replay_of: str | None = None
    """Id of the lost episode that goes on here."""
    went_on_as: str | None = None
    """Id of the episode that goes on with this one, which was lost."""

    @property
    def duration_s(self) -> float:
        """Return the seconds of all calls."""
        return sum(shot.duration_s for shot in self.shots if shot.operation not in NO_CALLS)

    @property
    def story(self) -> str:
        """Return the outcome, and of which lost episode this is a part."""
        before = f"goes on from {self.replay_of[:12]}, " if self.replay_of else ""
        after = f", went on as {self.went_on_as[:12]}" if self.went_on_as else ""
        return f"{before}{self.outcome}{after}"

    @property
    def outcome(self) -> str:
        """Return the score or the fault in a few words."""
        if self.fault is not None:
            return f"fault {self.fault.header}"
        return "no score" if self.score is None else f"score {self.score:g}"


OnShot = Callable[[Shot], None]


class EpisodePlayer:
    """Plays one episode with `client` and saves its screenshots in `folder`."""

    def __init__(self, client: EnvClient, folder: Path, on_shot: OnShot = lambda _: None) -> None:
        self._client = client
        self._folder = folder
        self._on_shot = on_shot

    def play(self, name: str, task: dict[str, JsonValue], steps: Sequence[ScriptStep]) -> EpisodeRecord:
        """Reset to `task`, play `steps` until the episode ends, evaluate.

        A fault ends the episode and is in the record, never raised. An episode that is not over when the script is
        gets evaluated all the same, as the trainer does.

        Raises:
            CliError: A screenshot cannot be saved.
        """
        record = EpisodeRecord(name=name, instruction=str(task.get("instruction", "")))
        try:
            reply = self._timed(record, "reset", None, partial(self._client.reset, task))
            if reply.obs_messages is None:
                raise fault_error(FaultReason.SCREENSHOT_MISSING, "the reset came back empty", operation="reset")
            anchor = newest_image(reply)
            for step in steps:
                if not step.until_screen_changes:
                    anchor = newest_image(reply)
                reply = self._played(record, step, reply, anchor)
                if reply.is_done:
                    break
            record.score = self._evaluate(record)
        except FaultError as error:
            record.fault = error.fault
        return record

    def _played(self, record: EpisodeRecord, step: ScriptStep, before: EnvReply, anchor: bytes | None) -> EnvReply:
        """Play `step` once, or until the screen differs from `anchor`, that before the last action, and is at rest."""
        last = newest_image(before)
        while True:
            reply = self._timed(record, "step", step.prediction, partial(self._client.step, step.prediction))
            now = newest_image(reply)
            if not step.until_screen_changes or reply.is_done or None in (anchor, last, now):
                return reply
            assert anchor is not None and last is not None and now is not None
            if changed_share(anchor, now) > CHANGED_SHARE >= changed_share(last, now):
                return reply
            last = now

    def _timed(
        self, record: EpisodeRecord, operation: str, prediction: str | None, call: Callable[[], EnvReply]
    ) -> EnvReply:
        began = time.monotonic()
        try:
            reply = call()
        except FaultError as error:
            self._note(record, Shot(operation, time.monotonic() - began, prediction, fault=error.fault))
            raise
        duration_s = time.monotonic() - began
        screenshot = self._save(len(record.shots), reply)
        self._note(record, Shot(operation, duration_s, prediction, screenshot, reply.is_done, reply.format_reward))
        return reply

    def _evaluate(self, record: EpisodeRecord) -> float:
        began = time.monotonic()
        try:
            score = self._client.evaluate()
        except FaultError as error:
            self._note(record, Shot("evaluate", time.monotonic() - began, fault=error.fault))
            raise
        self._note(record, Shot("evaluate", time.monotonic() - began))
        return score

    def _note(self, record: EpisodeRecord, shot: Shot) -> None:
        record.shots.append(shot)
        self._on_shot(shot)

    def _save(self, number: int, reply: EnvReply) -> Path | None:
        image = newest_image(reply)
        if image is None:
            return None
        path = self._folder / f"{number:02}{_SUFFIXES.get(image[:4], _SUFFIXES.get(image[:3], '.bin'))}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
        except OSError as error:
            raise CliError(f"the screenshot {path} cannot be saved: {error.strerror}") from error
        return path


def newest_image(reply: EnvReply) -> bytes | None:
    """Return the bytes of the last screenshot in `reply`, or None where there is none.

    Raises:
        FaultError: The image is not base64.
    """
    for message in reversed(reply.obs_messages or []):
        for item in reversed(message.content):
            if isinstance(item, ImageItem):
                try:
                    return base64.b64decode(item.b64, validate=True)
                except binascii.Error as error:
                    raise fault_error(FaultReason.SCREENSHOT_MISSING, "a screenshot is not base64") from error
    return None
