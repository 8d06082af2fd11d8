"""Templates on a real file system, without a machine: made once, verified, refused when changed, dropped when old."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_envpod.desktops.qemu.accelerator import PROOF_LOCK
from osworld_envpod.desktops.qemu.bounds import USED_MARK, Bounds
from osworld_envpod.desktops.qemu.files import exclusive
from osworld_envpod.desktops.qemu.template import PARTS, open_template

MIB = 1 << 20
MANY = Bounds(4, 1 << 30)
TWO = Bounds(2, 1 << 30)
PROCESS_DEADLINE_S = 60


class Builder:
    """Makes templates of three MiB or less, and counts them."""

    def __init__(self, *, is_tiny: bool = True) -> None:
        self.built = 0
        self._times = 1 if is_tiny else MIB // 8

    async def __call__(self, folder: Path) -> None:
        self.built += 1
        for name in PARTS:
            (folder / name).write_text(f"{name} {self.built}" * self._times)


async def test_a_template_is_made_once_for_all_who_ask_at_once(tmp_path: Path) -> None:
    build = Builder()
    templates = await asyncio.gather(*(open_template(tmp_path, "k", build, MANY) for _ in range(3)))
    assert build.built == 1
    for template in templates:
        template.check()
        template.release()


@pytest.mark.parametrize("part", PARTS)
async def test_a_damaged_template_is_made_again(tmp_path: Path, part: str) -> None:
    build = Builder()
    (await open_template(tmp_path, "k", build, MANY)).release()
    (tmp_path / "k" / part).write_text("short")
    template = await open_template(tmp_path, "k", build, MANY)
    assert build.built == 2
    assert template.part(part).read_text() == f"{part} 2"
    template.release()


async def test_a_template_that_changes_under_its_user_is_refused(tmp_path: Path) -> None:
    template = await open_template(tmp_path, "k", Builder(), MANY)
    template.part("ram").write_text("other")
    with pytest.raises(FaultError, match="was changed"):
        template.check()
    template.part("ram").unlink()
    with pytest.raises(FaultError, match="lost a file"):
        template.check()
    template.release()


async def test_a_build_that_fails_leaves_nothing_and_can_be_tried_again(tmp_path: Path) -> None:
    async def fail(folder: Path) -> None:
        (folder / "ram").write_text("half")
        raise fault_error(FaultReason.DESKTOP_START_FAILED, "no boot")

    left = tmp_path / ".draft-k-killed"
    left.mkdir()
    with pytest.raises(FaultError, match="no boot"):
        await open_template(tmp_path, "k", fail, MANY)
    assert [path.name for path in tmp_path.iterdir()] == ["k.lock"]
    (await open_template(tmp_path, "k", Builder(), MANY)).release()


async def test_the_templates_used_longest_ago_go_but_those_in_use_stay(tmp_path: Path) -> None:
    held = await open_template(tmp_path, "held", Builder(), TWO)
    for key in ("a", "b", "c"):
        (await open_template(tmp_path, key, Builder(), TWO)).release()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["b", "c", "held"]
    held.release()
    assert sorted(path.stem for path in tmp_path.glob("*.lock")) == ["b", "c", "held"], "the lock of a goes with it"


async def test_templates_are_bounded_by_bytes_too_but_the_one_in_hand_stays(tmp_path: Path) -> None:
    bounds = Bounds(8, 8 * MIB)
    for number, key in enumerate(("a", "b", "c", "d")):
        (await open_template(tmp_path, key, Builder(is_tiny=False), bounds)).release()
        os.utime(tmp_path / key / USED_MARK, (number, number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "c.lock", "d", "d.lock"]
    (await open_template(tmp_path, "e", Builder(is_tiny=False), Bounds(8, 0))).release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "e.lock"]


@contextlib.contextmanager
def _builder(store: Path, key: str) -> Iterator[subprocess.Popen[bytes]]:
    """Give a process that is making the template `key`, and never done."""
    script = f"""
import asyncio, pathlib
from osworld_envpod.desktops.qemu.bounds import Bounds
from osworld_envpod.desktops.qemu.template import open_template
async def build(folder):
    (folder / "ram").write_text("half")
    print("building", flush=True)
    await asyncio.Event().wait()
asyncio.run(open_template(pathlib.Path({str(store)!r}), {key!r}, build, Bounds(4, 1 << 30)))
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"building\n"
        try:
            yield process
        finally:
            process.kill()


async def test_what_a_builder_that_was_killed_left_goes_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    with _builder(tmp_path, "old") as killed, _builder(tmp_path, "new"):
        assert len(list(tmp_path.glob(".draft-old-*"))) == 1
        killed.send_signal(signal.SIGKILL)
        killed.wait(PROCESS_DEADLINE_S)
        (await open_template(tmp_path, "k", Builder(), MANY)).release()
        (draft,) = tmp_path.glob(".draft-*")
        assert draft.name.startswith(".draft-new-") and (draft / "ram").read_text() == "half"
        assert sorted(path.name for path in tmp_path.glob("*.lock")) == ["k.lock", "new.lock"]
    (tmp_path / PROOF_LOCK).touch()  # of another matter
    (await open_template(tmp_path, "k", Builder(), MANY)).release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k", "k.lock", PROOF_LOCK]


async def test_a_template_that_another_process_is_about_to_take_stays(tmp_path: Path) -> None:
    (await open_template(tmp_path, "a", Builder(), MANY)).release()
    async with exclusive(tmp_path / "a.lock"):  # it verifies the files, and holds the folder only then
        (await open_template(tmp_path, "b", Builder(), Bounds(1, 0))).release()
        assert (tmp_path / "a").is_dir()
    (await open_template(tmp_path, "b", Builder(), Bounds(1, 0))).release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "b.lock"]
