"""The HTML page: everything that comes from outside is escaped, pictures are relative."""

from html.parser import HTMLParser
from pathlib import Path

from osworld_contract.faults import FaultReason, fault_error
from osworld_env.episode import EpisodeRecord, Shot
from osworld_env.page import render_page

HOSTILE = '<script>alert(\'x\')</script>" onload="y" &amp; token=abcdef'
FOLDER = Path("/out/demo")


class Tags(HTMLParser):
    """Collects tags with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def _parsed(*records: EpisodeRecord) -> Tags:
    tags = Tags()
    tags.feed(render_page("A <page>", records, FOLDER))
    return tags


def test_texts_from_outside_make_no_tags_and_show_no_secrets() -> None:
    fault = fault_error(FaultReason.SETUP_FAILED, HOSTILE, operation="reset").fault
    shots = [Shot("reset", 1.0), Shot("step", 2.0, HOSTILE, fault=fault)]
    tags = _parsed(EpisodeRecord(HOSTILE, HOSTILE, shots, fault=fault))
    assert not [tag for tag, attributes in tags.seen if tag == "script" or "onload" in attributes]
    assert '<script>alert(\'x\')</script>" onload="y" &amp;' in tags.text
    assert "abcdef" not in tags.text


def test_pictures_are_relative_and_quoted() -> None:
    shots = [Shot("reset", 1.0, screenshot=FOLDER / "env 0" / "00#1.png")]
    tags = _parsed(EpisodeRecord("a", "b", shots, score=1.0))
    assert [attributes["src"] for tag, attributes in tags.seen if tag == "img"] == ["env%200/00%231.png"]


def test_what_was_played_again_is_no_step_of_its_own() -> None:
    shots = [Shot("reset", 1.0, replayed=True), Shot("step", 1.0, "a", replayed=True), Shot("replay", 2.5)]
    shots += [Shot("step", 1.0, "b"), Shot("evaluate", 1.0)]
    record = EpisodeRecord("a", "b", shots, score=1.0, replay_of="0123456789abcdef")
    text = _parsed(record).text
    assert "goes on from 0123456789ab, score 1" in text
    assert "step 2" in text and "step 3" not in text
    assert text.count("played again") == 2
    assert record.duration_s == 4.0


def test_a_fault_that_came_in_no_step_has_its_place_in_the_strip() -> None:
    lost, gone = (
        fault_error(reason, operation=None).fault for reason in (FaultReason.REPLY_LOST, FaultReason.DESKTOP_LOST)
    )
    shots = [Shot("reset", 1.0), Shot("step", 1.0, "a"), Shot("evaluate", 2.0, fault=lost), Shot("step", 1.0, "b")]
    record = EpisodeRecord("a", "b", [*shots, Shot("between", 60.0, fault=gone)], fault=gone)
    text = _parsed(record).text
    places = ["reset", "step 1", "evaluate", lost.message, "step 2", "between", "no call was under way", gone.message]
    strip = text[text.index(gone.message) + len(gone.message) :]
    found = [strip.index(place) for place in places]
    assert found == sorted(found)
    assert "step 3" not in text
    assert record.duration_s == 5.0


def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = render_page("t", [EpisodeRecord("a", "b", [Shot("reset", 1.0)], score=0.0)], FOLDER)
    assert "http" not in page
    assert "<link" not in page


def test_score_and_fault_are_told_apart() -> None:
    fault = fault_error(FaultReason.ENV_DOWN).fault
    assert "score 0" in _parsed(EpisodeRecord("a", "b", score=0.0)).text
    faulted = _parsed(EpisodeRecord("a", "b", fault=fault)).text
    assert "infra/env_down" in faulted
    assert "score" not in faulted
