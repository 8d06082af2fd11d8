"""The guest runtime's builder as a process."""

import asyncio
import fcntl
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from osworld_envpod.desktops.xvfb.runtime import find_runtime
from waiting import wait_for


def _provision(*arguments: str, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | ({"OSWORLD_CACHE_DIR": str(cache)} if cache else {})
    return subprocess.run(
        [sys.executable, "-m", "osworld_guest.provision", *arguments],
        capture_output=True, text=True, env=environment, timeout=110, check=False,
    )  # fmt: skip


def test_a_built_runtime_is_found_again_without_work() -> None:
    first = _provision("--code-only")
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)
    venv, code = Path(found["venv"]), Path(found["code"])
    assert (venv / "bin" / "python").exists()
    assert sorted(path.name for path in (venv / "bin").iterdir()) == sorted(
        path.name for path in (venv / "bin").glob("python*")
    )
    assert (code / "osworld_guest" / "session.py").exists()
    assert (code / "share" / "wallpaper.png").read_bytes().startswith(b"\x89PNG")
    stamp = code.stat().st_mtime_ns
    again = _provision("--code-only")
    assert json.loads(again.stdout) == found
    assert code.stat().st_mtime_ns == stamp


def test_everything_in_it_can_be_read_by_any_user() -> None:
    found = json.loads(_provision("--code-only").stdout)
    for folder in (Path(found["venv"]), Path(found["code"])):
        for path in [folder, *folder.rglob("*")]:
            if not path.is_symlink():
                assert path.stat().st_mode & 0o004, path


def test_without_an_environment_code_only_says_what_to_do(tmp_path: Path) -> None:
    done = _provision("--code-only", cache=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "python -m osworld_guest.provision" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = _provision(cache=blocked)
    assert done.returncode == 1
    assert str(blocked) in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_runtime_that_another_installation_looks_at_is_taken_a_moment_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    venv = Path(json.loads(_provision("--code-only").stdout)["venv"])
    (tmp_path / "guest").mkdir()
    (tmp_path / "guest" / venv.name).symlink_to(
        venv
    )  # the code is the test's own: others' desktops hold this machine's
    code = Path(json.loads(_provision("--code-only", cache=tmp_path).stdout)["code"])
    monkeypatch.setenv("OSWORLD_CACHE_DIR", str(tmp_path))
    fd = os.open(code, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # as who looks whether a desktop uses it
        finding = asyncio.create_task(find_runtime())
        await wait_for(lambda: "once more" in caplog.text, 30, "a lost race")
    finally:
        os.close(fd)
    runtime = await finding
    runtime.release()
    assert runtime.code == code
