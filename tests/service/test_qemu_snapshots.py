"""The store of task snapshots on a real file system, without a machine: claimed, published, refused, dropped."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from osworld_envpod.desktops.qemu.bounds import USED_MARK
from osworld_envpod.desktops.qemu.files import copy_sparse, identity, used_bytes
from osworld_envpod.desktops.qemu.snapshots import MANIFEST, REFUSAL_S, SnapshotStore
from osworld_envpod.desktops.qemu.task_forks import TaskForks
from osworld_envpod.desktops.qemu.template import MANIFEST as TEMPLATE_MANIFEST
from osworld_envpod.desktops.qemu.template import PARTS, Template
from small_disk import small_disk

SIZE_BYTES = 8192
SMALL_DISK_BYTES = 4 << 20


def _store(folder: Path, count_max: int = 8, bytes_max: int = 2**30) -> SnapshotStore:
    return SnapshotStore(folder, count_max, bytes_max)


async def _publish(store: SnapshotStore, key: str, windows: str = "w") -> None:
    async with store.claim(key):
        with store.building() as folder:
            for name in PARTS:
                (folder / name).write_bytes(name.encode() * (SIZE_BYTES // len(name)))
            store.publish(folder, key, windows).template.release()


def _folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


async def test_a_snapshot_is_found_once_it_is_published(tmp_path: Path) -> None:
    store = _store(tmp_path)
    assert store.find("a") is None
    await _publish(store, "a", "seen")
    found = _store(tmp_path).find("a")
    assert found is not None
    assert found.windows == "seen"
    found.template.check()
    found.template.release()


@pytest.mark.parametrize("part", [*PARTS, MANIFEST])
async def test_a_damaged_snapshot_is_not_found_and_made_anew(tmp_path: Path, part: str) -> None:
    store = _store(tmp_path)
    await _publish(store, "a")
    (tmp_path / "a" / part).write_text("short")
    assert store.find("a") is None
    await _publish(store, "a")
    found = store.find("a")
    assert found is not None
    found.template.release()


async def test_a_snapshot_of_before_the_last_boot_is_not_found(tmp_path: Path) -> None:
    store = _store(tmp_path)
    await _publish(store, "a")
    manifest = tmp_path / "a" / MANIFEST
    text = manifest.read_text()
    manifest.write_text(text.replace(text.split('"')[3], "another-boot"))
    assert store.find("a") is None


async def test_a_snapshot_that_is_thrown_away_goes_once_nobody_holds_it(tmp_path: Path) -> None:
    store = _store(tmp_path)
    await _publish(store, "a")
    held = store.find("a")
    assert held is not None
    store.throw_away("a")
    assert store.find("a") is None
    assert store.has_room(1)
    assert _folders(tmp_path) == {"a"}
    held.template.release()
    assert store.has_room(1)
    assert _folders(tmp_path) == set()


def _age(folder: Path, key: str, last_use_s: int) -> None:
    os.utime(folder / key / USED_MARK, (last_use_s, last_use_s))


async def test_the_one_used_longest_ago_goes_where_there_are_too_many(tmp_path: Path) -> None:
    store = _store(tmp_path, count_max=2)
    for key, last_use_s in (("a", 2000), ("b", 1000)):
        await _publish(store, key)
        _age(tmp_path, key, last_use_s)
    await _publish(store, "c")
    assert _folders(tmp_path) == {"a", "c"}
    assert not (tmp_path / "b.lock").exists()


async def test_the_one_used_longest_ago_goes_where_they_are_too_large(tmp_path: Path) -> None:
    await _publish(_store(tmp_path), "a")
    _age(tmp_path, "a", 1000)
    store = _store(tmp_path, bytes_max=2 * used_bytes(tmp_path / "a"))
    await _publish(store, "b")
    assert _folders(tmp_path) == {"a", "b"}
    await _publish(store, "c")
    assert _folders(tmp_path) == {"b", "c"}


async def test_a_refusal_lapses(tmp_path: Path) -> None:
    store = _store(tmp_path)
    await _publish(store, "other")
    store.refuse("a", "never still")
    assert _store(tmp_path).is_refused("a")
    (mark,) = tmp_path.glob("a.*")
    old = mark.stat().st_mtime - REFUSAL_S - 1
    os.utime(mark, (old, old))
    assert not store.is_refused("a")
    assert store.has_room(1)
    assert not mark.exists()


async def test_one_at_a_time_makes_a_snapshot_and_the_rest_find_it(tmp_path: Path) -> None:
    made = []

    async def ask(number: int) -> None:
        store = _store(tmp_path)
        async with store.claim("a"):
            if (found := store.find("a")) is not None:
                found.template.release()
                return
            made.append(number)
            await asyncio.sleep(0)
            with store.building() as folder:
                for name in PARTS:
                    (folder / name).write_text(name)
                store.publish(folder, "a", "w").template.release()

    await asyncio.gather(*(ask(number) for number in range(4)))
    assert len(made) == 1


async def test_a_builder_that_is_killed_leaves_its_claim_and_nothing_else(tmp_path: Path) -> None:
    script = f"""
import asyncio, sys
from pathlib import Path
from osworld_envpod.desktops.qemu.snapshots import SnapshotStore
async def main():
    store = SnapshotStore(Path({str(tmp_path)!r}), 8, 2**30)
    async with store.claim("a"):
        with store.building() as folder:
            (folder / "ram").write_text("half")
            print("building", flush=True)
            await asyncio.sleep(600)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as builder:
        assert builder.stdout is not None
        builder.stdout.readline()
        store = _store(tmp_path)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), store.claim("a"):
                pass
        assert store.has_room(1)
        assert len(_folders(tmp_path)) == 1, "what is being made is not swept"
        builder.send_signal(signal.SIGKILL)
    async with asyncio.timeout(10), store.claim("a"):
        assert store.has_room(1)
    assert _folders(tmp_path) == set()


def _template(folder: Path) -> Template:
    folder.mkdir()
    for name in (*PARTS, TEMPLATE_MANIFEST):
        (folder / name).write_text(name)
    return Template(folder, _identities(folder), lock=-1)


def _identities(folder: Path) -> tuple[tuple[int, int, int], ...]:
    return tuple(identity(folder / name) for name in PARTS)


async def test_a_reset_waits_for_a_maker_half_its_deadline_and_not_again(tmp_path: Path) -> None:
    template, store = _template(tmp_path / "template"), _store(tmp_path / "store")
    maker, waiter, other = TaskForks(store), TaskForks(store), TaskForks(store)
    held = await maker.lease("a", template, 60.0)
    assert held is not None and held.snapshot is None
    for deadline_s in (0.4, 600.0):
        async with asyncio.timeout(60):
            assert await waiter.lease("a", template, deadline_s) is None
    await held.close()
    found = await other.lease("a", template, 60.0)
    assert found is not None and found.snapshot is None, "who had not given up makes it"
    await found.close()


async def test_another_template_is_another_snapshot(tmp_path: Path) -> None:
    template, store = _template(tmp_path / "template"), _store(tmp_path / "store")
    leases = []
    for manifest in ("one", "made again"):
        (template.folder / TEMPLATE_MANIFEST).write_text(manifest)
        leases.append(await TaskForks(store).lease("a", template, 60.0))
    keys = {lease.key for lease in leases if lease is not None}
    assert len(keys) == 2
    for lease in leases:
        assert lease is not None
        await lease.close()


async def test_without_room_or_template_the_plain_way_is_gone(tmp_path: Path) -> None:
    template, store = _template(tmp_path / "template"), _store(tmp_path / "store")
    with template.part("ram").open("r+b") as ram:
        ram.truncate(1 << 43)
    template = replace(template, identities=_identities(template.folder))
    assert await TaskForks(store).lease("a", template, 60.0) is None
    (template.folder / TEMPLATE_MANIFEST).unlink()
    assert await TaskForks(store).lease("a", template, 60.0) is None


async def test_a_template_that_was_changed_is_left_to_the_plain_way_which_makes_it_again(tmp_path: Path) -> None:
    template, store = _template(tmp_path / "template"), _store(tmp_path / "store")
    template.part("ram").write_text("short")
    assert await TaskForks(store).lease("a", template, 60.0) is None


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_a_sparse_copy_has_the_same_bytes_and_the_same_holes(tmp_path: Path, is_elsewhere: bool) -> None:
    with small_disk(SMALL_DISK_BYTES) as disk:
        _copy(tmp_path / "source", (disk if is_elsewhere else tmp_path) / "target")


def _copy(source: Path, target: Path) -> None:
    with source.open("wb") as file:
        for offset in (0, 5 << 20, 9 << 20):
            file.seek(offset)
            file.write(os.urandom(70_000))
        file.truncate(16 << 20)
    copy_sparse(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks + 64
    with pytest.raises(FileExistsError):
        copy_sparse(source, target)
