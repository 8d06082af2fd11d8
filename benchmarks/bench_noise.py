"""How much the screens of identical episodes differ: what the threshold of recovery has to tell a wrong step from.

Each episode's screens are compared with the same moment's of the first one, the clock's bar left out. Baselines, in the
same run: one letter more in a terminal, and a program that has opened.
"""

import argparse
import base64
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from chaos.player import SAYING
from osworld_contract.wire import EnvReply
from osworld_env import EnvClient
from osworld_envpod.comparison import differing_pixels
from up_process import Up

OPENED = "a program that has opened"
PREDICTIONS = (
    "Thought: go on.\nAction: type(content='echo a >> ~/said\\n')",
    "Thought: go on.\nAction: click(start_box='(1500,700)')",
    "Thought: go on.\nAction: hotkey(key='alt f2')",
    "Thought: go on.\nAction: hotkey(key='esc')",
    "Thought: go on.\nAction: wait()",
)
LETTER = "Thought: a letter.\nAction: type(content='a')"
LETTERS = 8
"""The caret moves with each, and is seen in either phase of its blink."""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--episodes", type=int, default=20)
    parser.add_argument("--provider", default="xvfb")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        Up(Path(folder), envs=1, provider=options.provider, step_pause_s=0.5) as up,
        EnvClient(up.token_url) as client,
    ):
        episodes = [_screens(client) for _ in range(options.episodes)]
        bare = _bare(client)
        ended = episodes[-1][-1]
        client.reset(SAYING)
        typed = [screen_of(client.step(prediction)) for prediction in (PREDICTIONS[-1], *[LETTER] * LETTERS)]
    for moment in range(len(episodes[0])):
        pixels = [differing_pixels(episodes[0][moment], episode[moment]) for episode in episodes[1:]]
        name = f"after step {moment}" if moment else "after the reset"
        print(f"{name}: {_told(pixels)}")
    letters = sorted(map(differing_pixels, typed, typed[1:]))
    print(f"one letter: {letters[0]} to {letters[-1]} px; {OPENED}: {differing_pixels(bare, ended)} px")


def screen_of(reply: EnvReply) -> bytes:
    """Return the last screenshot of `reply`."""
    assert reply.obs_messages is not None
    images = [item.b64 for message in reply.obs_messages for item in message.content if item.type == "image"]
    return base64.b64decode(images[-1])


def _screens(client: EnvClient) -> list[bytes]:
    screens = [screen_of(client.reset(SAYING))]
    return [*screens, *(screen_of(client.step(prediction)) for prediction in PREDICTIONS)]


def _bare(client: EnvClient) -> bytes:
    """Return the screen of a task that opens nothing."""
    return screen_of(client.reset(SAYING | {"id": "bare", "config": []}))


def _told(pixels: Sequence[int]) -> str:
    still = sum(not count for count in pixels)
    others = sorted(count for count in pixels if count)
    spread = f"; the others {others[0]} to {others[-1]} px, median {statistics.median(others):.0f}" if others else ""
    return f"{still} of {len(pixels)} without a pixel of difference{spread}"


if __name__ == "__main__":
    main()
