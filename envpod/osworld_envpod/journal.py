"""What a router is told of the episode under way, so that it can have it played again elsewhere: an `EpisodeJournal`.

Put together from what is kept anyway: no screenshot is copied or encoded for it.
"""

import json
import time
from collections.abc import Iterator, Mapping

from osworld_contract.wire import Phase
from osworld_envpod.episode import Episode, Observation

_UNDER_WAY = frozenset({Phase.RUNNING, Phase.DONE, Phase.EVALUATING, Phase.FAULTED})
"""A faulted one is among them: it is played again up to the call that met the fault, where that was a loss."""


def journal_of(episode: Episode) -> list[bytes] | None:
    """Return the JSON of `episode` in pieces; None where it is over, or must not be played again."""
    first, fault = episode.first_observation, episode.fault
    steps = [step for step in episode.steps if step.observation.fault is None]
    is_over = episode.phase not in _UNDER_WAY or not episode.is_whole or episode.refused_reset is not None
    if is_over or first is None or first.mark is None or not all(step.observation.mark for step in steps):
        return None
    was_evaluated = fault is not None and fault.operation == "evaluate"
    has_gone_on = len(steps) < len(episode.steps)  # who makes a step has the reply before it
    facts = {
        "episode_id": episode.id,
        "can_evaluate_again": first.mark.can_evaluate_again,
        "stands_still": first.mark.stands_still,
        "may_be_evaluated": was_evaluated or episode.phase is Phase.EVALUATING,
        "idle_s": max(0.0, time.monotonic() - episode.answered),
        "took_s": [episode.reset_took_s, *(step.took_s for step in steps)],
    }
    begun = {"call": {"task_config": episode.task_config}, "key": episode.reset_key}
    pieces = [_fields(facts), b',"episode":', _fields(begun), *_seen(episode, first)]
    pieces.append(b',"is_delivered":%s,"steps":[' % _json(has_gone_on or episode.delivery.is_made))
    for number, step in enumerate(steps):
        made = {"call": {"prediction": step.prediction}, "key": step.key, "pause_s": step.pause_s}
        pieces += [b"," if number else b"", _fields(made)]
        pieces += [*_seen(episode, step.observation), b"}"]
    return [*pieces, b"]}}"]


def _fields(values: Mapping[str, object]) -> bytes:
    """Return `values` as the start of a JSON object."""
    return _json(values)[:-1]


def _seen(episode: Episode, observation: Observation) -> Iterator[bytes]:
    """Yield the field `seen`; a screenshot that a client got before a replay is in the history as it was then."""
    assert observation.mark is not None
    yield b',"seen":{"windows":%s,"screen_b64":' % _json(observation.mark.windows)
    if observation.end is None:
        yield b"null}"
    else:
        yield from (b'"', episode.history.screenshot_b64(observation.end - 1), b'"}')


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
