"""What a router keeps of episodes, and the document that it makes of them."""

import zlib
from dataclasses import replace

from osworld_contract.replay import EPISODE_BYTES, Mark, ReplayRequest
from osworld_router.journal import Journal, Journals, Passed

EPISODE = "e" * 32
OTHER = "f" * 32
WINDOWS = "d" * 32


def passed(
    number: int, body: bytes = b'{"prediction": "x"}', episode: str = EPISODE, screen: bytes = b"aGk="
) -> Passed:
    mark = Mark(episode, number, can_evaluate_again=True, windows=WINDOWS)
    return Passed(mark, zlib.compress(body), f"key-{number}", screen, pause_s=1.5, took_s=2.0)


RESET = passed(0, b'{"task_config": {"instruction": "do"}, "more": 1}')


def test_a_mark_survives_its_header() -> None:
    mark = Mark(EPISODE, 3, can_evaluate_again=False, windows=WINDOWS)
    assert Mark.parse(mark.header) == mark
    assert Mark.parse("") is None
    assert Mark.parse(mark.header + ";") is None
    still = replace(mark, stands_still=True)
    assert Mark.parse(still.header) == still != mark


def test_the_document_is_what_env_servers_take() -> None:
    journals = Journals(1000)
    journals.begin(4, "u", RESET)
    journals.go_on(4, "u", passed(1, '{"prediction": "ü \\" \\\\"}'.encode()))
    journals.go_on(4, "u", passed(2))
    journal = journals.get(4)
    assert journal is not None
    request = ReplayRequest.model_validate_json(b"".join(journal.document(0.25)))
    assert request.call.task_config == {"instruction": "do"}
    assert [step.call.prediction for step in request.steps] == ['ü " \\', "x"]
    assert [(step.key, step.pause_s) for step in request.steps] == [("key-1", 1.5), ("key-2", 1.5)]
    assert (request.seen.windows, request.seen.screen_b64, request.pause_s) == (WINDOWS, "aGk=", 0.25)
    assert request.replay_of == EPISODE
    assert journal.replay_s == 3 * 3.5


def test_no_time_passes_in_a_desktop_that_stands_still() -> None:
    journal = Journal("u", [RESET], answered=100.0)
    assert (journal.pause_s(130.0), journal.pause_s(99.0)) == (30.0, 0.0)
    still = Journal("u", [replace(RESET, mark=replace(RESET.mark, stands_still=True))], answered=100.0)
    assert still.pause_s(130.0) == 0.0


def test_an_episode_without_steps_is_a_document_as_well() -> None:
    journals = Journals(1000)
    journals.begin(0, "u", RESET)
    journal = journals.get(0)
    assert journal is not None
    assert ReplayRequest.model_validate_json(b"".join(journal.document(0))).steps == ()


def test_a_gap_ends_a_journal() -> None:
    for uid, call in (("u", passed(2)), ("u", passed(0)), ("u", passed(1, episode=OTHER)), ("other", passed(1))):
        journals = Journals(1000)
        journals.begin(0, "u", RESET)
        journals.go_on(0, uid, call)
        assert journals.get(0) is None
    journals.go_on(0, "u", passed(1))
    assert journals.get(0) is None, "its reset was not seen"
    journals.begin(0, "u", passed(1))
    assert journals.get(0) is None


def test_an_episode_goes_on_where_it_was_played_again() -> None:
    journals = Journals(1000)
    journals.begin(0, "u", RESET)
    journal = journals.get(0)
    assert journal is not None
    journal.moved("heir", OTHER)
    journals.go_on(0, "heir", passed(1, episode=OTHER))
    assert journals.get(0) is journal
    assert len(journal.calls) == 2


def test_memory_is_bounded() -> None:
    call = passed(0, screen=b"x" * 400)
    journals = Journals(1000)
    for env_idx in range(4):
        journals.begin(env_idx, "u", call)
    assert [journals.get(env_idx) is not None for env_idx in range(4)] == [False, False, True, True]
    journals.go_on(2, "u", passed(1, screen=b"x" * 10))
    journals.begin(4, "u", call)
    assert [journals.get(env_idx) is not None for env_idx in range(5)] == [False, False, True, False, True]
    journals.begin(2, "u", passed(0, screen=b"x" * 2000))
    assert journals.get(2) is None, "it alone is too much"
    large = Journals(10 * EPISODE_BYTES)
    large.begin(0, "u", passed(0, screen=b"x" * EPISODE_BYTES))
    assert large.get(0) is None


def test_no_memory_means_no_journal() -> None:
    journals = Journals(0)
    journals.begin(0, "u", RESET)
    assert journals.get(0) is None


def test_the_last_step_again_is_no_gap() -> None:
    journals = Journals(1000)
    journals.begin(0, "u", RESET)
    for _ in range(2):
        journals.go_on(0, "u", passed(1))
    journal = journals.get(0)
    assert journal is not None
    assert [call.mark.number for call in journal.calls] == [0, 1]


def test_what_is_not_known_can_be_asked_for() -> None:
    journals = Journals(1000)
    assert not journals.is_known(0), "no reset was seen"
    journals.take_over(0, None)
    assert journals.is_known(0), "nothing is to be played again"
    journals.begin(0, "u", RESET)
    before = journals.changes(0)
    journals.go_on(0, "u", passed(2))
    assert not journals.is_known(0), "another router went on with it"
    assert journals.changes(0) != before
    journals.take_over(0, Journal("u", [RESET, passed(1), passed(2)], is_delivered=False))
    journal = journals.get(0)
    assert journal is not None
    assert not journal.is_delivered
    assert b'"is_delivered":false' in b"".join(journal.document(0))
    journals.go_on(0, "u", passed(3))
    assert journal.is_delivered
    assert len(journal.calls) == 4


def test_what_was_given_up_for_its_size_is_not_asked_for_again() -> None:
    journals = Journals(3)
    journals.take_over(0, Journal("u", [RESET, passed(1)]))
    assert journals.get(0) is None
    journals.go_on(0, "u", passed(2))
    assert journals.is_known(0)
    journals.drop(0)
    assert journals.is_known(0)


def test_an_episode_that_is_doubted_is_asked_for_again() -> None:
    journals = Journals(1000)
    journals.begin(0, "u", RESET)
    journals.doubt(0)
    assert journals.get(0) is None
    assert not journals.is_known(0)
