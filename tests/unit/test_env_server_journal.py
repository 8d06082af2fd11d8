"""What an env server says of its episode, as a router takes it."""

import base64
import json

from pydantic import JsonValue

from osworld_contract.faults import FaultReason, fault_error
from osworld_contract.replay import EpisodeJournal, Mark
from osworld_contract.wire import Phase
from osworld_envpod.episode import Episode, Observation
from osworld_envpod.journal import journal_of

TASK: dict[str, JsonValue] = {"instruction": 'say "ü"', "evaluator": {"func": "infeasible"}}


def observation(episode: Episode, number: int, *, is_done: bool = False, is_marked: bool = True) -> Observation:
    mark = Mark(episode.id, number, can_evaluate_again=False, windows=f"{number:032x}", stands_still=True)
    return Observation(None if is_done else len(episode.history), is_done, 0.0, mark=mark if is_marked else None)


def playing() -> Episode:
    episode = Episode(reset_key="r", task_config=dict(TASK))
    episode.move(Phase.RESETTING)
    episode.history.begin("say", b"screen 0")
    episode.begin(observation(episode, 0), 2.0)
    episode.move(Phase.RUNNING)
    episode.history.add_prediction("boxed")
    episode.history.add_screenshot(b"screen 1")
    episode.record('type "x"', "k", observation(episode, 1), 1.5)
    episode.record("done", None, observation(episode, 2, is_done=True), 0.5)
    return episode


def said(episode: Episode) -> EpisodeJournal:
    pieces = journal_of(episode)
    assert pieces is not None
    return EpisodeJournal.model_validate_json(b"".join(pieces))


def test_a_journal_has_all_that_a_replay_needs() -> None:
    episode = playing()
    reply = said(episode)
    begun = reply.episode
    assert (reply.episode_id, reply.can_evaluate_again, reply.may_be_evaluated) == (episode.id, False, False)
    assert reply.stands_still
    assert reply.took_s == (2.0, 1.5, 0.5)
    assert (begun.call.task_config, begun.key, begun.is_delivered) == (TASK, "r", False)
    assert [(step.call.prediction, step.key) for step in begun.steps] == [('type "x"', "k"), ("done", None)]
    seen = [begun.seen, *(step.seen for step in begun.steps)]
    assert [sight.windows for sight in seen] == [f"{number:032x}" for number in range(3)]
    screens = [None if sight.screen_b64 is None else base64.b64decode(sight.screen_b64) for sight in seen]
    assert screens == [b"screen 0", b"screen 1", None]


def test_it_says_whether_the_last_reply_arrived() -> None:
    episode = playing()
    episode.delivery.send(None)
    assert said(episode).episode.is_delivered
    episode.move(Phase.EVALUATING)
    assert said(episode).may_be_evaluated


def test_there_is_none_of_what_must_not_be_played_again() -> None:
    assert journal_of(Episode()) is None
    unmarked = playing()
    unmarked.record("more", None, observation(unmarked, 3, is_marked=False), 0.5)
    assert journal_of(unmarked) is None
    scored = playing()
    scored.move(Phase.EVALUATING)
    scored.move(Phase.EVALUATED)
    assert journal_of(scored) is None


def test_a_loss_leaves_what_was_before_it() -> None:
    in_step = playing()
    in_step.fail(fault_error(FaultReason.DESKTOP_LOST, operation="step").fault)
    in_step.record("more", "k2", Observation(None, True, 0.0, in_step.fault))
    reply = said(in_step)
    assert len(reply.episode.steps) == 2
    assert (reply.episode.is_delivered, reply.may_be_evaluated) == (True, False)
    in_evaluate = playing()
    in_evaluate.fail(fault_error(FaultReason.WORKER_LOST, operation="evaluate").fault)
    assert said(in_evaluate).may_be_evaluated


def test_a_part_of_an_episode_is_none() -> None:
    episode = playing()
    episode.is_whole = False
    assert journal_of(episode) is None


def test_the_pieces_are_one_json_document() -> None:
    assert json.loads(b"".join(journal_of(playing()) or []))["episode"]["steps"][0]["pause_s"] >= 0
