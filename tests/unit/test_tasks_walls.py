import json
import logging
from pathlib import Path

import pytest

from osworld_envpod.tasks.settings import WorkerSettings
from osworld_envpod.tasks.walls import log_walls, walls_argument

OWN = Path("/cache/run/worker-7")


def asked(**environment: str) -> dict[str, list[object]]:
    settings = WorkerSettings(cache_dir=OWN, python=Path("/usr/bin/python3"), environment=environment)
    walls: dict[str, list[object]] = json.loads(walls_argument(settings, Path("/code")))
    return walls


def test_the_worker_writes_to_its_own_folders_and_to_devices_that_keep_nothing() -> None:
    written = asked()["write"]
    assert [path for path in written if not str(path).startswith("/dev/")] == [
        f"{OWN}/{name}" for name in ("home", "cwd", "tmp", "work")
    ]
    assert "/dev/shm" not in written


def test_neither_the_cache_nor_a_persons_folders_are_read() -> None:
    read = asked()["read"]
    assert {"/usr", "/code", "/etc/resolv.conf"} <= set(read)
    assert not {"/", "/etc", "/home", "/root", "/tmp", "/run", "/var", str(OWN), str(OWN / "kept")} & set(read)


def test_ports_of_the_evaluators_own_addresses_are_open() -> None:
    assert asked()["ports"] == [53, 80, 443]
    assert asked(HTTPS_PROXY="http://user:word@proxy:3128", KEY="sk-1:2", BASE="https://model/v1")["ports"] == [
        53, 80, 443, 3128,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "level", "words"),
    [
        ({"landlock": 0, "seccomp": True}, logging.WARNING, ("the env server's user", "lsm=", "TCP ports", "signals")),
        ({"landlock": 3, "seccomp": True}, logging.WARNING, ("Landlock 3", "TCP ports", "Linux 6.7", "signals")),
        ({"landlock": 7, "seccomp": False}, logging.WARNING, ("sockets in the file system",)),
        ({"landlock": 7, "seccomp": True}, logging.INFO, ("behind Landlock 7",)),
    ],
)
def test_what_the_kernel_lacks_is_said(
    caplog: pytest.LogCaptureFixture, found: dict[str, object], level: int, words: tuple[str, ...]
) -> None:
    with caplog.at_level(logging.INFO):
        log_walls(found)
    (record,) = caplog.records
    assert record.levelno == level
    for word in words:
        assert word in record.getMessage()
