"""Tasks that download: played from a local mirror, and a fault where their files cannot be had."""

import json
from urllib.parse import urlsplit

import httpx
import pytest

from programs.agent import Agent
from programs.mirror import CONVERT, COPY_COLUMN, setup_url
from server_process import ServerProcess
from tasks_of import RENAME, task_config

DARK_MODE = "thunderbird/10a730d5-d414-4b40-b479-684bed1ae522"
SHEET = "NetIncome.xlsx - LibreOffice Calc"


def test_a_column_of_a_mirrored_sheet_is_copied(mirror_agent: Agent) -> None:
    mirror_agent.begin(COPY_COLUMN)
    mirror_agent.await_focus(SHEET)
    mirror_agent.press("ctrl home", "right", "ctrl shift down", "ctrl c", "alt s")
    mirror_agent.await_menu("Soffice")
    mirror_agent.press("s")
    mirror_agent.await_focus("Insert Sheet")
    mirror_agent.press("enter")
    mirror_agent.await_focus(SHEET)
    mirror_agent.press("ctrl v", "ctrl s")
    mirror_agent.await_focus("Confirm File Format")
    mirror_agent.look("touch ~/asked")
    mirror_agent.press("enter")
    mirror_agent.await_output("find ~/NetIncome.xlsx -newer ~/asked", "NetIncome")
    assert mirror_agent.finish() == 1.0


def test_a_mirrored_sheet_that_nobody_touches_scores_nothing(mirror_agent: Agent) -> None:
    for task in (COPY_COLUMN, CONVERT):
        mirror_agent.begin(task)
        assert mirror_agent.finish() == 0.0


def test_a_mirrored_sheet_is_converted_in_the_terminal(mirror_agent: Agent) -> None:
    mirror_agent.begin(CONVERT)
    mirror_agent.await_focus("Terminal")
    mirror_agent.type("libreoffice --convert-to csv *.ods\n")
    mirror_agent.await_text("~/Desktop/file_example_ODS_5000.csv", "2023-10")
    mirror_agent.await_output("pgrep -f '[c]onvert-to' || echo ended", "ended")
    assert mirror_agent.finish() == 1.0


@pytest.mark.parametrize("task", [COPY_COLUMN, CONVERT, DARK_MODE], ids=lambda name: name.partition("/")[0])
def test_a_task_whose_files_cannot_be_had_is_a_fault_and_no_episode(server: ServerProcess, task: str) -> None:
    # A name that no resolver knows, so that a machine with a network sees the same.
    host = urlsplit(setup_url(task)).netloc
    config = json.loads(json.dumps(task_config(task)).replace(host, "files.invalid"))
    reply = httpx.post(server.url + "/env/reset", json={"task_config": config}, timeout=120)
    fault = reply.json()["fault"]
    assert (reply.status_code, fault["kind"], fault["reason"]) == (503, "task", "download_failed")
    assert fault["masked"]
    assert "files.invalid" in fault["message"]
    score = httpx.post(server.url + "/env/evaluate", json={}, timeout=120)
    assert (score.status_code, score.json()["fault"]["reason"]) == (503, "download_failed")


def test_the_env_goes_on_after_a_task_without_files(agent: Agent) -> None:
    config = json.loads(json.dumps(task_config(CONVERT)).replace(urlsplit(setup_url(CONVERT)).netloc, "files.invalid"))
    failed = agent.client.reset(config)
    assert (failed.obs_messages, failed.is_done, len(agent.client.errors)) == (None, True, 1)
    agent.client.errors.clear()
    agent.begin(RENAME)
    assert agent.finish() == 0.0
