"""The command line as a person meets it: exit codes, one sentence, no traceback, no secret."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from osworld_env.ports import free_port
from server_process import clean_environment

TASK = {"id": "t", "instruction": "x", "evaluator": {"func": "infeasible"}}


def osworld_env(*arguments: str, cwd: Path, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "osworld_env", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        input=stdin,
        env=clean_environment(**variables),
    )


def failed(done: subprocess.CompletedProcess[str], exit_code: int) -> str:
    """Return what was said by a command that failed as it should."""
    assert done.returncode == exit_code, done
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def test_commands_are_listed(tmp_path: Path) -> None:
    done = osworld_env("--help", cwd=tmp_path)
    assert done.returncode == 0
    commands = "serve up run check evaluate-check parse doctor setup demo host episodes pool"
    for command in commands.split():
        assert command in done.stdout


@pytest.mark.parametrize("command", ["run", "check", "evaluate-check", "nonsense"])
def test_a_wrong_command_line_ends_with_2(tmp_path: Path, command: str) -> None:
    failed(osworld_env(command, cwd=tmp_path), 2)


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("{", "is not JSON: line 1"),
        ("[]", "is not a JSON object"),
        ('{"instruction": "x"}', "evaluator: Field required"),
        ('{"instruction": 1, "evaluator": {"func": "infeasible"}}', "instruction"),
    ],
)
def test_a_bad_task_is_named_before_anything_is_sent(tmp_path: Path, task: str, sentence: str) -> None:
    (tmp_path / "task.json").write_text(task)
    (tmp_path / "script.txt").write_text("Action: wait()")
    said = failed(osworld_env("run", "task.json", "--script", "script.txt", cwd=tmp_path), 2)
    assert sentence in said


def test_a_script_without_predictions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps(TASK))
    (tmp_path / "script.jsonl").write_text("\n")
    said = failed(osworld_env("run", "task.json", "--script", "script.jsonl", cwd=tmp_path), 2)
    assert "holds no prediction" in said


def test_a_run_without_a_server_is_a_fault_with_a_hint_and_a_page(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps(TASK))
    (tmp_path / "script.txt").write_text("Action: wait()")
    url = f"http://job:t0psecret@127.0.0.1:{free_port()}"
    done = osworld_env("run", "task.json", "--script", "script.txt", "--url", url, "--out", "o", cwd=tmp_path)
    said = failed(done, 1)
    assert "refuses connections" in said
    assert "hint: the server is not running" in said
    assert "t0psecret" not in said
    assert "infra/env_down" in (tmp_path / "o" / "index.html").read_text()


def test_a_check_without_a_server_says_why(tmp_path: Path) -> None:
    said = failed(osworld_env("check", f"http://j:t0psecret@127.0.0.1:{free_port()}", cwd=tmp_path), 1)
    assert "CHECK FAILED: reachable" in said
    assert "t0psecret" not in said
    said = failed(osworld_env("check", "http://does-not-exist.invalid:15001", cwd=tmp_path), 1)
    assert "is not known" in said
    said = failed(osworld_env("check", "127.0.0.1:15001", cwd=tmp_path), 2)
    assert "http://" in said


def test_an_open_door_is_refused(tmp_path: Path) -> None:
    said = failed(osworld_env("up", "--host", "0.0.0.0", cwd=tmp_path), 2)
    assert "OSWORLD_TOKEN" in said
    assert "--insecure" in said


def test_a_host_of_another_machine_is_refused(tmp_path: Path) -> None:
    assert "no address of this machine" in failed(
        osworld_env("up", "--host", "192.0.2.1", "--insecure", cwd=tmp_path), 2
    )


def test_an_unwritable_cache_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = failed(
        osworld_env(
            "up",
            "--port",
            "0",
            "--provider",
            "vmware",
            cwd=tmp_path,
            OSWORLD_CACHE_DIR=str(tmp_path / "file" / "cache"),
        ),
        1,
    )
    assert "OSWORLD_CACHE_DIR" in said


def test_serve_on_an_unknown_provider_names_the_choices(tmp_path: Path) -> None:
    said = failed(osworld_env("serve", cwd=tmp_path, PROVIDER="paper"), 2)
    assert "PROVIDER" in said
    assert "xvfb" in said


def test_parse_reads_predictions(tmp_path: Path) -> None:
    done = osworld_env("parse", cwd=tmp_path, stdin=json.dumps({"prediction": "Thought: x\nAction: wait()"}) + "\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["actions"] == ["WAIT"]


def test_doctor_says_what_there_is(tmp_path: Path) -> None:
    done = osworld_env("doctor", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert (done.returncode == 0) == bool(report["can_run"])
    assert set(report["providers"]) == {"xvfb", "docker", "vmware"}
    names = {finding["name"] for finding in report["findings"]}
    assert {
        "KVM",
        "QEMU",
        "Docker",
        "Python",
        "disk",
        "memory",
        "guest environment",
        "task worker environment",
    } <= names


def test_host_check_says_whether_kvm_works(tmp_path: Path) -> None:
    done = osworld_env("host", "check", "--no-boot", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert done.returncode == {"works": 0, "unproven": 3}.get(report["kvm"], 1)
    assert {"machine", "processor", "/dev/kvm"} <= {finding["name"] for finding in report["findings"]}
    said = osworld_env("host", "check", "--no-boot", cwd=tmp_path)
    assert said.returncode == done.returncode
    assert "KVM" in said.stdout


def test_a_demo_without_its_files_says_where_they_are_looked_for(tmp_path: Path) -> None:
    assert "--examples" in failed(osworld_env("demo", "--examples", str(tmp_path / "no"), cwd=tmp_path), 2)
