import os
from pathlib import Path

from osworld_envpod.tasks.choose import sweep
from osworld_envpod.tasks.folders import LOCK, WorkerFolders

ENDED = 4_194_304 + 1
"""Above the kernel's largest process id."""

DEPTH = 1500
"""Beyond Python's recursion limit, and what an agent may leave."""


def test_only_the_folders_of_ended_env_servers_are_swept(tmp_path: Path) -> None:
    for name in (f"worker-{ENDED}", f"worker-{os.getpid()}", "worker-x", "x-1"):
        (tmp_path / name / "tmp").mkdir(parents=True)
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"worker-{os.getpid()}", "worker-x", "x-1"]


def test_a_lock_says_more_than_a_process_id_which_another_process_may_have_by_now(tmp_path: Path) -> None:
    running = WorkerFolders(tmp_path / f"worker-{ENDED}", None)
    running.prepare()
    left = tmp_path / f"worker-{os.getpid()}"
    left.mkdir()
    (left / LOCK).touch()
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"worker-{ENDED}"]
    running.remove()
    assert list(tmp_path.iterdir()) == []


def test_whatever_an_agent_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / f"worker-{ENDED}"
    WorkerFolders(left, None).prepare()
    (left / LOCK).unlink()  # and with it the hold on it, as at an end by SIGKILL
    (left / LOCK).touch()
    at = os.open(left / "home", os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("deep", dir_fd=at)
        inner = os.open("deep", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    (left / "home").chmod(0)
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
