"""The conversation of one episode, kept as encoded bytes. A step appends; nothing is ever encoded twice."""

import base64
import json
from collections.abc import Iterable
from importlib import resources

SYSTEM_TEXT = "Your are a helpful assistant."
"""The typo is part of the prompt that models were trained with. Source: the public trainer's ``gui_agent.py``."""

IMAGE_MIN_PIXELS = 3136
IMAGE_MAX_PIXELS = 2116800
"""Source: the public trainer's ``remote_env_protocol.py``."""

INSTRUCTION_MARK = "{instruction}"

_IMAGE_HEAD = b'{"role":"user","content":[{"type":"image","b64":"'
_IMAGE_TAIL = b'","min_pixels":%d,"max_pixels":%d}]}' % (IMAGE_MIN_PIXELS, IMAGE_MAX_PIXELS)


class History:
    """Messages of one episode in wire form.

    A reset gives three: system text, user text with the instruction, user image. A step adds the assistant's text and,
    while the episode goes on, a user image.
    """

    def __init__(self) -> None:
        self._messages: list[bytes] = []

    def __len__(self) -> int:
        return len(self._messages)

    def begin(self, instruction: str, screenshot: bytes) -> None:
        """Replace everything by the three messages of a reset. `screenshot` is passed on as the guest made it."""
        prompt = system_prompt().replace(INSTRUCTION_MARK, instruction)
        self._messages = [_text("system", SYSTEM_TEXT), _text("user", prompt), _image(screenshot)]

    def add_prediction(self, boxed: str) -> None:
        """Append the assistant's text, with box tokens already in it."""
        self._messages.append(_text("assistant", boxed))

    def add_screenshot(self, screenshot: bytes) -> None:
        """Append what the agent sees next."""
        self._messages.append(_image(screenshot))

    def replace_screenshot(self, screenshot: bytes) -> None:
        """Show `screenshot` in place of the last one, which must be the last message."""
        self._messages[-1] = _image(screenshot)

    def screenshot_b64(self, index: int) -> bytes:
        """Return the base64 of the screenshot that message `index` shows."""
        return self._messages[index][len(_IMAGE_HEAD) : -len(_IMAGE_TAIL)]

    def encoded(self, first: int = 0, end: int | None = None) -> list[bytes]:
        """Return messages `first` to `end` as one JSON array, in pieces that are to be sent one after the other."""
        return list(_array(self._messages[first:end]))


def system_prompt() -> str:
    """Return the UI-TARS prompt, with a mark where the instruction goes."""
    return resources.files("osworld_envpod.prompts").joinpath("uitars_system_prompt.txt").read_text("utf-8")


def _text(role: str, text: str) -> bytes:
    message = {"role": role, "content": [{"type": "text", "text": text}]}
    # A lone surrogate in a model's text cannot be encoded as UTF-8; as an ASCII escape it is valid JSON.
    return json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def _image(screenshot: bytes) -> bytes:
    return b"".join((_IMAGE_HEAD, base64.b64encode(screenshot), _IMAGE_TAIL))


def _array(messages: list[bytes]) -> Iterable[bytes]:
    yield b"["
    for number, message in enumerate(messages):
        if number:
            yield b","
        yield message
    yield b"]"
