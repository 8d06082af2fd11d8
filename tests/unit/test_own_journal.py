"""What a client keeps of its episode, and what a router makes of it."""

import pytest
from pydantic import JsonValue

from osworld_contract.replay import EPISODE_BYTES, Mark
from osworld_contract.wire import EnvReply, ImageItem, Message, TextItem
from osworld_env.own_journal import Answered, OwnJournal
from osworld_router.journal import Journal
from osworld_router.rebuild import journal_told

EPISODE = "e" * 32
OTHER = "f" * 32
SCREEN = "aGk="


def reply(screen: str | None = SCREEN, *, is_done: bool = False) -> EnvReply:
    images = [] if screen is None else [ImageItem(b64="b2xk"), ImageItem(b64=screen)]
    messages = [Message(role="user", content=[*images, TextItem(text="the screen")])]
    return EnvReply(env_idx=0, obs_messages=None if is_done else messages, is_done=is_done, format_reward=0.0)


def call(
    number: int, at: float, *, episode: str = EPISODE, said: EnvReply | None = None, still: bool = False
) -> Answered:
    """Return the call `number` of an episode, made `at` and answered two seconds later."""
    body: dict[str, JsonValue] = {"prediction": f'type "{number}"'} if number else {"task_config": {"instruction": "ü"}}
    mark = Mark(episode, number, can_evaluate_again=True, windows="d" * 32, stands_still=still)
    return Answered(body, f"key-{number}", mark.header, said or reply(), at, at + 2.0)


def noted(*calls: Answered) -> OwnJournal:
    own = OwnJournal()
    for one in calls:
        own.note(one)
    return own


def told(own: OwnJournal) -> Journal:
    document = own.document()
    assert document is not None
    return journal_told(document, "", 1e9)


def test_a_router_takes_it_for_one_of_its_own() -> None:
    own = noted(call(0, 0.0), call(1, 5.0), call(2, 8.5, said=reply(is_done=True)))
    journal = told(own)
    assert [passed.key for passed in journal.calls] == ["key-0", "key-1", "key-2"]
    assert [passed.pause_s for passed in journal.calls] == [0.0, 3.0, 1.5]
    assert [passed.took_s for passed in journal.calls] == [2.0, 2.0, 2.0]
    assert [passed.screen_b64 for passed in journal.calls] == [SCREEN.encode(), SCREEN.encode(), None]
    assert journal.mark == Mark(EPISODE, 2, can_evaluate_again=True, windows="d" * 32)
    assert journal.is_delivered
    assert not journal.may_be_evaluated
    own.note_evaluate()
    assert told(own).may_be_evaluated


def test_no_time_passes_in_a_desktop_that_stands_still() -> None:
    assert [passed.pause_s for passed in told(noted(call(0, 0.0, still=True), call(1, 50.0, still=True))).calls] == [
        0,
        0,
    ]


def test_a_repeat_adds_nothing_and_a_reset_begins_anew() -> None:
    own = noted(call(0, 0.0), call(1, 3.0), call(1, 4.0))
    assert len(told(own).calls) == 2
    own.note_evaluate()
    own.note(call(0, 10.0, episode=OTHER))
    journal = told(own)
    assert (journal.mark.episode_id, len(journal.calls), journal.may_be_evaluated) == (OTHER, 1, False)


def test_the_last_mark_counts_after_a_replay() -> None:
    assert told(noted(call(0, 0.0), call(1, 3.0, episode=OTHER))).mark.episode_id == OTHER


@pytest.mark.parametrize(
    "calls",
    [
        (),
        (call(1, 0.0),),
        (call(0, 0.0), call(2, 3.0)),
        (call(0, 0.0), call(2, 3.0), call(1, 5.0)),
        (call(0, 0.0), Answered({"prediction": "x"}, "k", None, reply(), 3.0, 5.0)),
        (call(0, 0.0), call(1, 4000.0)),
        (call(0, 0.0), call(1, 3.0, said=reply(None))),
        (call(0, 0.0, said=reply("a" * EPISODE_BYTES)), call(1, 3.0)),
    ],
    ids=["nothing", "no reset", "a gap", "after a gap", "no mark", "a long pause", "no screen", "too large"],
)
def test_an_episode_that_is_not_whole_is_not_told_of(calls: tuple[Answered, ...]) -> None:
    assert noted(*calls).document() is None


def test_what_is_cleared_stays_so_until_the_next_reset() -> None:
    own = noted(call(0, 0.0), call(1, 3.0))
    own.clear()
    own.note(call(2, 6.0))
    assert own.document() is None
    own.note(call(0, 9.0))
    assert len(told(own).calls) == 1
