"""Whether a desktop came to the state that was seen before. Pure.

The threshold is zero: every pixel of the screen, but for the top bar with its clock, the list of windows and the
focused title must be the same. A text caret is masked in time, not in space: who compares looks again until a blink has
shown both of its phases, for a mask of its place would hide the last letter typed. Evidence: docs/architecture.md.
"""

import base64
import binascii
import functools
import io
from typing import Final

from PIL import Image, ImageChops, UnidentifiedImageError

from osworld_contract.replay import Sight

CLOCK_BAR_PX: Final = 32
"""Height of what is not compared at the top of the screen. Source: the panel of our own desktop, ``tint2rc``; Ubuntu's
top bar has 27. What else is in it, the list of windows says."""

SETTLE_S: Final = 3.0
"""How long a state that differs is looked at again: a caret blinks in 1.2 s (GTK), and a program that is slower this
time gets a little more. A guess."""


def difference(seen: Sight, frame: bytes | None, windows: str | None) -> str | None:
    """Return what of `frame` and `windows` is not as `seen`, None where all is.

    Args:
        seen: What was there before.
        frame: The screenshot now, None where the reply would have none.
        windows: The digest of windows and focused title now.
    """
    if windows != seen.windows:
        return "other windows, or another one has the focus"
    if (frame is None) != (seen.screen_b64 is None):
        return "the episode is over" if frame is None else "the episode goes on"
    if frame is None or seen.screen_b64 is None:
        return None
    try:
        before = base64.b64decode(seen.screen_b64, validate=True)
        return None if before == frame else _screens_differ(before, frame)
    except (binascii.Error, UnidentifiedImageError, OSError) as error:
        return f"a screenshot cannot be read: {type(error).__name__}"


def differing_pixels(before: bytes, now: bytes) -> int:
    """Return how many pixels differ between two screenshots, the top bar with its clock left out.

    Raises:
        ValueError: Their sizes differ.
        OSError: One cannot be read.
    """
    first, second = (Image.open(io.BytesIO(data)).convert("RGB") for data in (before, now))
    if first.size != second.size:
        raise ValueError(f"a screen of {second.size}, not {first.size}")
    area = (0, CLOCK_BAR_PX, *first.size)
    bands = ImageChops.difference(first.crop(area), second.crop(area)).split()
    largest = functools.reduce(ImageChops.lighter, bands)
    return sum(largest.histogram()[1:])


def _screens_differ(before: bytes, now: bytes) -> str | None:
    first, second = (Image.open(io.BytesIO(data)).convert("RGB") for data in (before, now))
    if first.size != second.size:
        return f"a screen of {second.size}, not {first.size}"
    area = (0, CLOCK_BAR_PX, *first.size)
    box = ImageChops.difference(first.crop(area), second.crop(area)).getbbox()
    if box is None:
        return None
    left, top, right, bottom = box
    return f"the screen differs within {right - left}x{bottom - top} px at ({left},{top + CLOCK_BAR_PX})"
