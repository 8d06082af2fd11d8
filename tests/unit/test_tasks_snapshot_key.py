"""The names of task snapshots, and the tasks that get none."""

import json
from pathlib import Path
from typing import Any

import pytest

from osworld_contract.task import Task, parse_task
from osworld_envpod.tasks.snapshot_key import snapshot_key, why_never_frozen

DOWNLOAD = {"type": "download", "parameters": {"files": [{"url": "https://h/f.odt", "path": "/home/user/f.odt"}]}}
OPEN = {"type": "open", "parameters": {"path": "/home/user/f.odt"}}


def _task(*config: dict[str, Any], **more: Any) -> Task:
    return parse_task(
        {"id": "t", "instruction": "i", "config": list(config), "evaluator": {"func": "infeasible"}} | more
    )


def test_the_name_is_that_of_the_setup_alone() -> None:
    name = snapshot_key(_task(DOWNLOAD, OPEN), None)
    assert name == snapshot_key(_task(DOWNLOAD, OPEN, id="other", instruction="other", source="s"), None)
    assert name != snapshot_key(_task(OPEN, DOWNLOAD), None)
    assert name != snapshot_key(_task(DOWNLOAD), None)


def test_the_mirrors_files_count_and_no_others(tmp_path: Path) -> None:
    task = _task(DOWNLOAD)
    (tmp_path / "index.json").write_text(json.dumps({"https://h/f.odt": "f"}))
    names = {snapshot_key(task, None), snapshot_key(task, tmp_path)}
    (tmp_path / "other").write_text("x")
    assert snapshot_key(task, tmp_path) in names
    for text in ("one", "another"):
        (tmp_path / "f").write_text(text)
        names.add(snapshot_key(task, tmp_path))
    assert len(names) == 4


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ([], "no setup"),
        ([{"type": "login", "parameters": {}}], "type login"),
        ([{"type": "googledrive", "parameters": {}}], "type googledrive"),
        ([{"type": "update_browse_history", "parameters": {"history": []}}], "type update_browse_history"),
        ([{"type": "execute", "parameters": {"command": 'touch -d "$(date)" f', "shell": True}}], "'date'"),
        (
            [{"type": "execute", "parameters": {"command": ["python3", "-c", "import time; time.time()"]}}],
            "'time.time'",
        ),
        ([{"type": "launch", "parameters": {"command": ["x11vnc", "-display", ":0"]}}], "'vnc'"),
    ],
)
def test_what_is_of_the_moment_is_never_frozen(config: list[dict[str, Any]], why: str) -> None:
    assert why in why_never_frozen(_task(*config))


def test_a_task_that_wants_a_proxy_is_never_frozen() -> None:
    assert "proxy" in why_never_frozen(_task(OPEN, proxy=True))


def test_a_usual_task_may_be_frozen() -> None:
    update = {"type": "execute", "parameters": {"command": ["apt-get", "update"]}}
    assert why_never_frozen(_task(DOWNLOAD, OPEN, update, {"type": "sleep", "parameters": {"seconds": 2}})) == ""
