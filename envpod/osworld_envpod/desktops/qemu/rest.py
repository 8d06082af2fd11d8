"""Whether a guest is at rest: its processors idle, nobody connected, the screen still. Only then can it be frozen.

What is frozen in the middle of something goes on with it in every fork, at another time of day and beside another
episode; what is cut by a fork, a connection above all, was never part of what the task set up.
"""

import asyncio
import io
import time
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageChops

from osworld_envpod.comparison import CLOCK_BAR_PX
from osworld_envpod.desktops.base import GuestAddresses
from osworld_envpod.desktops.qemu.machine import Machine
from osworld_envpod.osworld_guest import guest_of

WATCH_S: Final = 0.5
"""How long the processors are watched, with no request under way, between two looks."""

USED_MAX: Final = 0.35
"""Processors that a guest at rest may use. Measured with our image under emulation, on 2 cores with a load of 5: 0.02
to 0.11 idle, up to 0.29 where a caret blinks; 0.49 while a file manager ends its start, 1.2 in a loop that sleeps."""

WANTED_MAX: Final = 0.8
"""Processors that it may use or wait for: on a machine that is full, a guest that works gets little. Measured with a
load of 8 to 10: 0.07 to 0.16 idle, up to 0.27 with a caret; 1.13 and more in an endless loop, which used 0.27 to 0.95.
"""

CARET_MAX_PX: Final = 500
"""Area in which two looks may differ. Measured: 78 for a terminal's caret, 2340 for a prompt that appears."""

LOOKS: Final = 3
"""Looks in a row that must be alike."""


@dataclass(frozen=True)
class Look:
    """What was seen of a guest."""

    frame: bytes
    windows: str
    """Empty where the guest's server tells nobody."""


class NotAtRestError(Exception):
    """The guest did not come to rest in time. Says what moved last."""


async def await_rest(machine: Machine, addresses: GuestAddresses, deadline_s: float) -> Look:
    """Return what a guest at rest shows.

    Raises:
        NotAtRestError: It did not come to rest in `deadline_s`.
        FaultError: The guest did not answer.
    """
    end = time.monotonic() + deadline_s
    alike: list[Look] = []
    while True:
        used, wanted = await processors(machine, WATCH_S)
        look = await look_at(addresses, deadline_s)
        connections = await machine.connections()
        why = ""
        if used > USED_MAX or wanted > WANTED_MAX:
            why = f"its processors are busy ({used:.2f} of them, {wanted:.2f} wanted)"
        elif connections:
            why = f"a connection is open ({connections[0]})"
        elif look is None:
            why = "its windows could not be listed"
        elif alike and (area := moved_px(alike[-1], look)) > CARET_MAX_PX:
            why = f"its screen moves (in {area} pixels)"
        if why or look is None:
            alike = []
        else:
            alike.append(look)
            if len(alike) == LOOKS:
                return look
        if time.monotonic() > end:
            raise NotAtRestError(f"not at rest in {deadline_s:.0f} s: {why or 'it had just become still'}")


async def look_at(addresses: GuestAddresses, deadline_s: float) -> Look | None:
    """Look at a guest over a connection that is closed again; None where its agent does not list its windows.

    Raises:
        FaultError: It did not answer.
    """
    async with guest_of(addresses) as guest:
        frame, windows = await guest.look(deadline_s)
    return None if windows is None and addresses.has_agent else Look(frame, windows or "")


async def processors(machine: Machine, seconds: float) -> tuple[float, float]:
    """Return how many processors `machine` uses in the next `seconds`, and how many it uses or waits for."""
    began, before = time.monotonic(), await asyncio.to_thread(machine.processors_s)
    await asyncio.sleep(seconds)
    after = await asyncio.to_thread(machine.processors_s)
    used_s, waited_s = (last - first for first, last in zip(before, after, strict=True))
    elapsed_s = time.monotonic() - began
    return used_s / elapsed_s, (used_s + waited_s) / elapsed_s


def moved_px(before: Look, now: Look) -> int:
    """Return the area around all that differs below the bar with the clock; other windows are all of the screen."""
    first, second = (Image.open(io.BytesIO(look.frame)).convert("RGB") for look in (before, now))
    if before.windows != now.windows or first.size != second.size:
        return second.width * second.height
    if before.frame == now.frame:
        return 0
    area = (0, CLOCK_BAR_PX, *first.size)
    box = ImageChops.difference(first.crop(area), second.crop(area)).getbbox()
    return 0 if box is None else (box[2] - box[0]) * (box[3] - box[1])
