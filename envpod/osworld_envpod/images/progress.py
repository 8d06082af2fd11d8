"""How far a fetch is: told to whoever shows it, and to the log now and then."""

import logging
import time
from collections.abc import Callable
from typing import Final, TypeAlias

LOG_EVERY_S: Final = 15.0

Show: TypeAlias = Callable[[int, int], None]
"""Takes the bytes that are there, and those of the whole (0: not known)."""

logger = logging.getLogger(__name__)


def show_nothing(have_bytes: int, total_bytes: int) -> None:
    """Take the numbers and do nothing."""


class Progress:
    """The progress of one image."""

    def __init__(self, shown: str, show: Show) -> None:
        self._shown = shown
        self._show = show
        self._logged_at = 0.0

    def update(self, have_bytes: int, total_bytes: int | None, doing: str) -> None:
        """Tell how far `doing` ("fetched", "fetched by another process") is."""
        self._show(have_bytes, total_bytes or 0)
        now = time.monotonic()
        if self._logged_at and now - self._logged_at < LOG_EVERY_S:
            return
        self._logged_at = now
        share = f" of {total_bytes / 1e6:.1f} MB ({have_bytes / total_bytes:.0%})" if total_bytes else " MB"
        logger.info("image %s: %.1f%s %s", self._shown, have_bytes / 1e6, share, doing)
