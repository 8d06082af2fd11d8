"""Plays scripted episodes as a trainer does, and says of each what it was told."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from osworld_contract.faults import FaultError
from osworld_env import EnvClient
from tasks_of import INFEASIBLE, task_config
from trainer_client import TrainerClient
from waiting import wait_until

FINISHED = "Thought: done.\nAction: finished(content='done')"
FAIL = "Thought: it cannot be done.\nAction: call_user()"

FOCUS = (
    "for _ in $(seq 300); do "
    "xprop -id $(xprop -root _NET_ACTIVE_WINDOW | grep -oE '0x[0-9a-f]+' | head -1) WM_CLASS | grep -qi terminal "
    "&& exit 0; sleep 0.1; done; exit 1"
)
STILL = (
    "same=0; for _ in $(seq 100); do "
    "now=$(ffmpeg -nostdin -loglevel error -f x11grab -video_size 1920x1048 -i :0+0,32 -frames:v 1 -f md5 - 2>&1); "
    '[ "$now" = "$last" ] && same=$((same + 1)) || same=0; last=$now; '
    "[ $same -ge 4 ] && exit 0; sleep 0.2; done; exit 1"
)
"""Ends once the screen below the panel's clock has not changed for a second: a prompt that is drawn after the first
screenshot would be a difference when the episode is played again."""

READ = 'for _ in $(seq 200); do [ "$(tail -n 1 ~/said)" = c ] && break; sleep 0.1; done; cat ~/said'

ANSWER_S = 90.0
"""Until a router answers that is killed or has lost its power. The client waits for one for 60 s."""

SAYING: dict[str, Any] = {
    "id": "saying",
    "instruction": "Say a, b and c, each once and in this order.",
    "config": [
        {"type": "launch", "parameters": {"command": ["gnome-terminal"]}},
        {"type": "execute", "parameters": {"command": ["bash", "-c", FOCUS]}},
        {"type": "execute", "parameters": {"command": ["bash", "-c", STILL]}},
    ],
    "evaluator": {
        "func": "exact_match",
        "result": {"type": "vm_command_line", "command": ["bash", "-c", READ]},
        "expected": {"type": "rule", "rules": {"expected": "a\nb\nc\n"}},
    },
}
"""A step that is lost, or carried out twice, shows in the score."""


@dataclass(frozen=True)
class Script:
    """A task, what the agent says in it, and OSWorld's score for that."""

    task: dict[str, Any]
    predictions: tuple[str, ...]
    score: float


def _say(letter: str) -> str:
    return f"Thought: say {letter}.\nAction: type(content='echo {letter} >> ~/said\\n')"


SCRIPTS = (
    Script(SAYING, (_say("a"), _say("b"), _say("c"), FINISHED), 1.0),
    Script(task_config(INFEASIBLE[0]), (FAIL,), 1.0),
    Script(task_config(INFEASIBLE[1]), (FINISHED,), 0.0),
)


@dataclass
class Outcome:
    """What the trainer was told of one episode."""

    script: Script
    score: float | None = None
    """The number that a 2xx reply of evaluate had, None where there was none."""
    illegal: list[str] = field(default_factory=list)
    """Pairs of messages and is_done that the trainer cannot take."""
    slowest_s: float = 0.0
    """The slowest step or evaluate."""
    slowest_reset_s: float = 0.0
    errors: list[str] = field(default_factory=list)
    is_masked: bool = False
    """Whether a server has answered our client with a fault. A connection that broke is the client's own fault."""

    @property
    def is_right(self) -> bool:
        """Say whether the score is that of an undisturbed episode."""
        return self.score == self.script.score

    @property
    def is_wrong(self) -> bool:
        """Say whether the trainer was told a score that is not this episode's."""
        return self.score is not None and not self.is_right


Play = Callable[[str, str, Script], Outcome]
"""Plays a script once at an URL, with a token."""


@dataclass
class _Listener(TrainerClient):
    """The trainer's client, which also keeps what it was told."""

    slowest_s: float = 0.0
    slowest_reset_s: float = 0.0
    score: float | None = None

    def _post(self, path: str, body: dict[str, Any], timeout_s: float) -> Any:
        began = time.monotonic()
        try:
            reply = super()._post(path, body, timeout_s)
        finally:
            _note_time(self, path == "/env/reset", time.monotonic() - began)
        if path == "/env/evaluate":
            self.score = float(reply)
        return reply


def play(url: str, token: str, script: Script) -> Outcome:
    """Play as the public trainer's loop does: a failed call ends the episode, and evaluate is always asked."""
    client = _Listener(url, ("job", token), (0.5, 0.5))
    outcome = Outcome(script)
    reply = client.reset(script.task)
    replies = [("reset", reply)]
    for prediction in script.predictions:
        if reply.is_done:
            break
        reply = client.step(prediction)
        replies.append(("step", reply))
    client.evaluate()
    outcome.score, outcome.errors = client.score, client.errors
    outcome.slowest_s, outcome.slowest_reset_s = client.slowest_s, client.slowest_reset_s
    outcome.illegal = [f"{name}: {reply}" for name, reply in replies if not reply.is_legal]
    return outcome


def play_masking(url: str, token: str, script: Script) -> Outcome:
    """Play with our client, as `osworld_env.arpo` does: a fault masks the episode, and no score is asked for."""
    outcome = Outcome(script)
    with EnvClient(url, token=token) as client:
        wait_until(lambda: _answers(client), ANSWER_S, "an answer")  # who has answered is waited for afterwards
        try:
            reply = _timed(outcome, lambda: client.reset(script.task), is_reset=True)
            for prediction in script.predictions:
                if reply.is_done:
                    break
                reply = _timed(outcome, lambda prediction=prediction: client.step(prediction))  # type: ignore[misc]
            outcome.score = _timed(outcome, client.evaluate)
        except FaultError as error:
            outcome.is_masked = not isinstance(error.__cause__, httpx.HTTPError)
            outcome.errors.append(str(error))
    return outcome


def _answers(client: EnvClient) -> bool:
    with suppress(FaultError):  # a router that is killed or has no power
        return bool(client.health())
    return False


_T = TypeVar("_T")


def _timed(outcome: Outcome, call: Callable[[], _T], *, is_reset: bool = False) -> _T:
    began = time.monotonic()
    try:
        return call()
    finally:
        _note_time(outcome, is_reset, time.monotonic() - began)


def _note_time(kept: Outcome | _Listener, is_reset: bool, seconds: float) -> None:
    if is_reset:
        kept.slowest_reset_s = max(kept.slowest_reset_s, seconds)
    else:
        kept.slowest_s = max(kept.slowest_s, seconds)
