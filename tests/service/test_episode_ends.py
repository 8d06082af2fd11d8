"""What a router tells of episodes that ended behind an env server's back, in their records."""

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from osworld_contract.faults import FaultReason, fault_error
from osworld_contract.names import HEADER_ENDED, HEADER_EPISODE
from osworld_contract.record import RECORD_FILE, RecordEnd
from osworld_envpod.recorder import Recorder
from osworld_envpod.settings import EnvServerSettings
from server_process import env_server, post
from service.test_episode_records import WAIT, WRITTEN_DEADLINE_S, lines_of
from tasks_of import RENAME, task_config
from waiting import wait_until

END = RecordEnd(
    episode_id="e" * 32,
    operation="step",
    at=2.0,
    duration_s=1.0,
    fault=fault_error(FaultReason.ENV_DOWN, operation="step").fault,
)
HEAD = {
    "version": 1,
    "episode_id": END.episode_id,
    "task_id": "t",
    "instruction": "do",
    "provider": "xvfb",
    "pool": "p",
}
STEP_LINE = {"operation": "step", "at": 1.0, "duration_s": 1.5, "prediction": "x"}
ENDED = [END.line.model_dump(mode="json")]


def ended(root: Path, *ends: RecordEnd) -> None:
    """Have a recorder told how episodes before ended."""
    recorder = Recorder(EnvServerSettings(_env_file=None, PROVIDER="xvfb", episode_records_dir=root))
    for end in ends:
        recorder.end(end)
    recorder.close()


def lost_record(root: Path, *lines: dict[str, Any]) -> Path:
    folder = root / END.episode_id
    folder.mkdir(parents=True)
    (folder / RECORD_FILE).write_text("".join(json.dumps(line) + "\n" for line in (HEAD | {"began": 1.0}, *lines)))
    return folder


@pytest.mark.parametrize("lines", [[], [STEP_LINE]])
def test_an_end_is_added_once(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    folder = lost_record(tmp_path, *lines)
    ended(tmp_path, END, END)
    assert lines_of(folder)[1:] == [*lines, *ENDED]


@pytest.mark.parametrize("end", [{"score": 1.0, "operation": "evaluate"}, {"fault": ENDED[0]["fault"]}])
def test_a_record_that_has_an_end_keeps_it(tmp_path: Path, end: dict[str, Any]) -> None:
    folder = lost_record(tmp_path, STEP_LINE, STEP_LINE | end)
    ended(tmp_path, END)
    assert len(lines_of(folder)) == 3


def test_an_end_follows_the_last_whole_line(tmp_path: Path) -> None:
    folder = lost_record(tmp_path, STEP_LINE)
    with (folder / RECORD_FILE).open("a") as file:
        file.write('{"operation": "st')
    ended(tmp_path, END)
    assert lines_of(folder)[1:] == [STEP_LINE, *ENDED]


def test_a_record_under_way_gets_no_end(tmp_path: Path) -> None:
    folder = lost_record(tmp_path, STEP_LINE)
    with (folder / RECORD_FILE).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ended(tmp_path, END)
    assert len(lines_of(folder)) == 2


def test_what_is_not_there_is_not_made_and_what_cannot_be_written_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended(tmp_path / "none", END)
    assert not (tmp_path / "none").exists()
    (tmp_path / END.episode_id / RECORD_FILE).mkdir(parents=True)
    ended(tmp_path, END)
    assert "goes without its end" in caplog.text


def test_an_end_comes_with_a_reset_also_to_the_one_who_played(tmp_path: Path) -> None:
    records = tmp_path / "records"
    with env_server(tmp_path, OSWORLD_EPISODE_RECORDS_DIR=str(records)) as server:
        server.wait_ready()
        call = {"task_config": task_config(RENAME)}
        lost = post(server, "/env/reset", call).headers[HEADER_EPISODE]
        assert post(server, "/env/step", {"prediction": WAIT}).headers[HEADER_EPISODE] == lost
        end = END.model_copy(update={"episode_id": lost})
        for value in (end.header, "no end", end.header):
            reply = post(server, "/env/reset", call, **{HEADER_ENDED: value})
            assert reply.status_code == 200
            assert reply.headers[HEADER_EPISODE] != lost
        wait_until(lambda: lines_of(records / lost)[3:] == ENDED, WRITTEN_DEADLINE_S, "the end")
