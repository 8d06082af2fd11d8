"""Guest images that nobody uses are removed; those that somebody may boot stay."""

import os
from pathlib import Path

from osworld_guest.image.prune import KEEP_IMAGES, KEEP_S, mark_used, prune

NOW = 2_000_000_000.0


def image(images: Path, name: str, unused_s: float) -> Path:
    folder = images / name
    folder.mkdir()
    (folder / "disk.qcow2").write_bytes(b"disk")
    os.utime(folder, (NOW - unused_s, NOW - unused_s))
    return folder


def test_only_old_images_beyond_the_latest_go(tmp_path: Path) -> None:
    kept = [image(tmp_path, f"latest-{n}", KEEP_S * (2 + n)) for n in range(KEEP_IMAGES)]
    old = [image(tmp_path, f"old-{n}", KEEP_S * (9 + n)) for n in range(2)]
    assert prune(tmp_path, NOW) == old
    assert all(folder.is_dir() for folder in kept)
    assert not any(folder.exists() for folder in old)


def test_images_used_lately_all_stay(tmp_path: Path) -> None:
    folders = [image(tmp_path, f"image-{n}", KEEP_S / 2) for n in range(KEEP_IMAGES + 2)]
    assert prune(tmp_path, NOW) == []
    assert all(folder.is_dir() for folder in folders)


def test_a_draft_the_lock_and_a_base_are_no_images(tmp_path: Path) -> None:
    others = [image(tmp_path, ".draft-1", KEEP_S * 99)]
    for name in ("lock", "base-1.tar"):
        (tmp_path / name).touch()
        others.append(tmp_path / name)
    for n in range(KEEP_IMAGES):
        image(tmp_path, f"image-{n}", 0.0)
    assert prune(tmp_path, NOW) == []
    assert all(path.exists() for path in others)


def test_use_is_noted(tmp_path: Path) -> None:
    folder = image(tmp_path, "image", 0.0)
    os.utime(folder, (0.0, 0.0))
    mark_used(folder)
    assert folder.stat().st_mtime > 0.0
