"""Fixtures of the providers rung: a Docker engine for the session, disks that say how the small guest behaves."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from image_rig import qcow2_disk
from providers.engine import Engine, engine

BOOT_S = 90.0
"""A boot of the small guest takes 3 s; the machine may be busy."""

ENDED_S = 60.0


@pytest.fixture(scope="session")
def docker_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A running engine with the small image."""
    with engine(tmp_path_factory.mktemp("engine")) as running:
        yield running


@dataclass(frozen=True)
class GuestDisk:
    """A disk, and what it tells its guest to do."""

    path: Path

    def say(self, **behaviour: object) -> None:
        """Tell the guests from now on, those that are coming up included."""
        with self.path.open("ab") as file:
            file.write(b"\n" + json.dumps(behaviour).encode())


@pytest.fixture
def disk(tmp_path: Path) -> GuestDisk:
    """A disk whose guest comes up at once, where today's users of desktop-env have theirs."""
    path = tmp_path / "docker_vm_data" / "Ubuntu.qcow2"
    path.parent.mkdir()
    path.write_bytes(qcow2_disk(1000))
    return GuestDisk(path)


@pytest.fixture
def own_place(docker_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our engine, and a working directory of the test's own."""
    monkeypatch.setenv("DOCKER_HOST", docker_engine.host)
    monkeypatch.chdir(tmp_path)
