"""What ``pool logs`` makes of the lines of a log."""

import re
from collections.abc import Iterator

import pytest

from osworld_contract.logs import EPISODE_BEGINS
from osworld_env.cluster.log_lines import LogLine, LogPrinter
from osworld_env.cluster.logs import show_past


def stamped(second: int, text: str) -> str:
    return f"2026-01-01T00:00:{second:02}.000000000Z {text}"


def past(*texts: str, tail: int = 100, grep: str | None = None) -> list[str]:
    printer = LogPrinter(3, 9, "desks-3", re.compile(grep) if grep else None)
    return show_past(printer, (stamped(second, text) for second, text in enumerate(texts)), tail)


BEGINS = f"INFO server {EPISODE_BEGINS % ('e1', 'os/rename')}"


def test_each_line_has_env_epoch_pod_and_task() -> None:
    assert past("up", BEGINS, "step_parse: ok") == [
        "[env 3 epoch 9 desks-3 -] up",
        f"[env 3 epoch 9 desks-3 os/rename] {BEGINS}",
        "[env 3 epoch 9 desks-3 os/rename] step_parse: ok",
    ]


def test_the_task_is_known_from_a_line_that_is_not_shown() -> None:
    assert past(BEGINS, "step_parse: ok", grep="step_parse") == ["[env 3 epoch 9 desks-3 os/rename] step_parse: ok"]
    assert past(BEGINS, "a", "b", tail=1) == ["[env 3 epoch 9 desks-3 os/rename] b"]


def test_the_tail_is_counted_among_lines_that_are_shown() -> None:
    assert [line[-1] for line in past("x1", "y", "x2", "x3", "y", tail=2, grep="x")] == ["2", "3"]
    assert past("x", tail=0) == []


@pytest.fixture
def printer() -> Iterator[LogPrinter]:
    printer = LogPrinter(0, 1, "desks-0")
    printer.shown(LogLine.parse(stamped(5, "first")))
    yield printer


def test_a_log_that_is_asked_for_again_repeats_nothing(printer: LogPrinter) -> None:
    assert printer.shown(LogLine.parse(stamped(4, "before"))) is None
    assert printer.shown(LogLine.parse(stamped(5, "first"))) is None
    assert printer.shown(LogLine.parse(stamped(6, ""))) == "[env 0 epoch 1 desks-0 -] "
