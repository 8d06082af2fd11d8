"""Removes guest images that nobody boots any more: each change of the guest's code makes a new one of a gigabyte."""

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Final

KEEP_IMAGES: Final = 3
"""Images that stay however old they are: of two checkouts side by side, and of the one before. A guess."""

KEEP_S: Final = 24 * 3600.0
"""An image used in this time stays: an env server may start a machine from it. A guess."""

logger = logging.getLogger("osworld_guest.image")


def mark_used(image: Path) -> None:
    """Note that the image in folder `image` is in use; a user who may not write there notes nothing."""
    try:
        os.utime(image)
    except PermissionError:
        logger.debug("the use of %s is not noted: it belongs to another user", image)


def prune(images: Path, now: float | None = None) -> list[Path]:
    """Remove the images under `images` that are neither among the latest used nor used lately.

    Args:
        images: The folder of all images; one folder each. The caller holds its lock.
        now: Seconds since the epoch; the present if it is not given.

    Returns:
        The folders that were removed, the most recently used first.
    """
    now = time.time() if now is None else now
    used = {path: path.stat().st_mtime for path in images.iterdir() if path.is_dir() and not path.name.startswith(".")}
    latest_first = sorted(used, key=lambda path: used[path], reverse=True)
    stale = [path for path in latest_first[KEEP_IMAGES:] if now - used[path] > KEEP_S]
    for path in stale:
        shutil.rmtree(path, ignore_errors=True)
        logger.info("guest image %s: removed, unused for %.0f h", path.name, (now - used[path]) / 3600)
    return stale
