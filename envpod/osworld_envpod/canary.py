"""Canaries: episodes whose score is known, played on an idle desktop. Nothing done is 0; the task done is 1.

A desktop that scores one of them otherwise would lie to a trainer, and takes no more episodes. That it could not score
one, by a fault, is no wrong score.
"""

import asyncio
import logging
import random
import time
import uuid
from enum import StrEnum
from typing import Final

from pydantic import JsonValue

from osworld_contract.faults import Fault, FaultError, FaultReason, fault_error
from osworld_contract.task import parse_task
from osworld_contract.wire import Phase
from osworld_envpod.comparison import differing_pixels
from osworld_envpod.episode import Episode
from osworld_envpod.metrics import EnvMetrics
from osworld_envpod.runner import Runner

logger = logging.getLogger(__name__)

_FILE: Final = "~/osworld-canary"
_TERMINAL_HAS_FOCUS: Final = (
    "for _ in $(seq 300); do "
    "xprop -id $(xprop -root _NET_ACTIVE_WINDOW | grep -oE '0x[0-9a-f]+' | head -1) WM_CLASS | grep -qi terminal "
    "&& exit 0; sleep 0.1; done; exit 1"
)
_TYPED_TRIES: Final = 300
_UNTOUCHED_TRIES: Final = 10
"""How often a tenth of a second the evaluator waits for the file: a shell beside much other work may be slow to write
what was typed, and a slow desktop is not a wrong one. Nobody writes it where nothing is done."""
_READ: Final = f"for _ in $(seq %d); do [ -s {_FILE} ] && break; sleep 0.1; done; cat {_FILE}"
_FINISHED: Final = "Thought: done.\nAction: finished(content='done')"


class CanaryKind(StrEnum):
    """What the canary does of its task."""

    NO_OP = "no_op"
    ORACLE = "oracle"


_DUE: Final = {CanaryKind.NO_OP: 0.0, CanaryKind.ORACLE: 1.0}


class Canary:
    """Plays both episodes, and remembers what they came to."""

    def __init__(self, runner: Runner, metrics: EnvMetrics, every_s: float) -> None:
        """Prepare for canaries every `every_s` seconds, 0 for none; the first comes at random within that time."""
        self.fault: Fault | None = None
        """Why this desktop's scores must not be believed."""
        self._runner = runner
        self._metrics = metrics
        self._every_s = every_s
        self._next = time.monotonic() + random.uniform(0, every_s)  # noqa: S311 - spreads load, no secret
        self._last_screen: bytes | None = None

    @property
    def is_due(self) -> bool:
        """Say whether an idle desktop should be asked."""
        return self._every_s > 0 and self.fault is None and time.monotonic() >= self._next

    async def play(self) -> None:
        """Play both episodes on a clean desktop; one wrong score is `fault`.

        Raises:
            FaultError: The desktop failed; that is no wrong score.
        """
        logger.info("The canaries begin")
        self._next = time.monotonic() + self._every_s
        for kind in CanaryKind:
            score = await self._score(kind)
            if score != _DUE[kind]:
                message = f"the {kind} canary scores {score:g} in place of {_DUE[kind]:g}"
                self.fault = fault_error(FaultReason.CANARY_WRONG, message).fault
                self._metrics.canary_failed.set(1)
                logger.critical("No more episodes here: %s", message)
                return

    async def _score(self, kind: CanaryKind) -> float:
        result = "preempted"
        try:
            score = await self._play_once(kind)
            result = "right" if score == _DUE[kind] else "wrong"
        except FaultError:
            result = "fault"
            raise
        finally:
            self._metrics.canaries.labels(kind.value, result).inc()
            if result in {"wrong", "fault"}:
                logger.error("The %s canary is %s", kind, result)
        return score

    async def _play_once(self, kind: CanaryKind) -> float:
        word = uuid.uuid4().hex[:8]
        episode = Episode(task=parse_task(_task(word, kind)), is_canary=True)
        episode.move(Phase.RESETTING)
        await self._runner.reset(episode, self._runner.settings.reset_timeout_s)
        if kind is CanaryKind.ORACLE:
            await self._step(episode, f"Thought: write.\nAction: type(content='echo {word} > {_FILE}; clear\\n')")
            await self._note_noise()
        await self._step(episode, _FINISHED)
        return await self._runner.evaluate(episode)

    async def _step(self, episode: Episode, prediction: str) -> None:
        observation = await self._runner.step(episode, prediction, None)
        if observation.fault is not None:
            raise FaultError(observation.fault)

    async def _note_noise(self) -> None:
        """Compare the screen with the same moment of the canary before: what differs is noise."""
        screen, before = self._runner.last_frame, self._last_screen
        self._last_screen = screen
        if screen is not None and before is not None:
            self._metrics.canary_noise_pixels.set(await asyncio.to_thread(differing_pixels, before, screen))


def _task(word: str, kind: CanaryKind) -> dict[str, JsonValue]:
    read = _READ % (_TYPED_TRIES if kind is CanaryKind.ORACLE else _UNTOUCHED_TRIES)
    return {
        "id": "osworld-env-canary",
        "instruction": f"Write {word} into the file {_FILE}.",
        "config": [
            {"type": "launch", "parameters": {"command": ["gnome-terminal"]}},
            {"type": "execute", "parameters": {"command": ["bash", "-c", _TERMINAL_HAS_FOCUS]}},
        ],
        "evaluator": {
            "func": "exact_match",
            "result": {"type": "vm_command_line", "command": ["bash", "-c", read]},
            "expected": {"type": "rule", "rules": {"expected": f"{word}\n"}},
        },
    }
