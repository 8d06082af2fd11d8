"""Which states of a desktop count as the same."""

import base64
import io

from PIL import Image

from osworld_contract.replay import Sight
from osworld_envpod.comparison import CLOCK_BAR_PX, difference

WINDOWS = "d" * 32


def picture(*dots: tuple[int, int], size: tuple[int, int] = (64, 64)) -> bytes:
    image = Image.new("RGB", size)
    for dot in dots:
        image.putpixel(dot, (1, 0, 0))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def seen(frame: bytes | None) -> Sight:
    return Sight(windows=WINDOWS, screen_b64=None if frame is None else base64.b64encode(frame).decode())


def test_equal_states_are_equal() -> None:
    assert difference(seen(picture((5, 50))), picture((5, 50)), WINDOWS) is None
    assert difference(seen(None), None, WINDOWS) is None


def test_the_clock_is_not_looked_at_and_everything_below_it_is() -> None:
    assert difference(seen(picture((60, CLOCK_BAR_PX - 1))), picture(), WINDOWS) is None
    assert difference(seen(picture((60, CLOCK_BAR_PX))), picture(), WINDOWS) == (
        f"the screen differs within 1x1 px at (60,{CLOCK_BAR_PX})"
    )


def test_windows_and_focus_count_by_themselves() -> None:
    for windows in ("e" * 32, None):
        assert difference(seen(picture()), picture(), windows) is not None


def test_an_end_that_came_early_or_late_is_a_difference() -> None:
    assert difference(seen(None), picture(), WINDOWS) == "the episode goes on"
    assert difference(seen(picture()), None, WINDOWS) == "the episode is over"


def test_what_is_no_picture_is_a_difference() -> None:
    assert difference(seen(b"no picture"), picture(), WINDOWS) is not None
    assert difference(Sight(windows=WINDOWS, screen_b64="A"), picture(), WINDOWS) is not None
    assert difference(seen(picture()), picture(size=(32, 32)), WINDOWS) is not None
