"""An agent that plays tasks through the trainer's wire and looks where a person would: focus, menus, names.

What it does goes through `TrainerClient` as text of a model. What it sees comes past that wire, so that it can wait for
the desktop instead of for time, and find what it clicks instead of knowing pixels.
"""

from xml.etree import ElementTree

import httpx

from desktop_probe import guest_execute, guest_url
from server_process import ServerProcess
from tasks_of import task_config
from trainer_client import TrainerClient
from waiting import wait_until

SEEN_DEADLINE_S = 60.0
"""For a window or a file to be there. LibreOffice and GIMP start for the first time in 3 s on two idle cores."""

MODEL_SCALE = (1932 / 1920, 1092 / 1080)
"""From pixels of the screen to those of the image that the model is shown. Source: the trainer's smart resize."""

FOCUSED = "xprop -id $(xprop -root _NET_ACTIVE_WINDOW | grep -oE '0x[0-9a-f]+' | head -1) _NET_WM_NAME"

MENUS = """python -c '
from Xlib import X, display
for window in display.Display().screen().root.query_tree().children:
    facts = window.get_attributes()
    if facts.override_redirect and facts.map_state == X.IsViewable:
        print((window.get_wm_class() or ("",))[-1])
'"""
"""Menus are windows that no window manager lists: prints the program of each that is on the screen."""


class Agent:
    """Plays one episode after the other on one env server."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self.client = TrainerClient(server.url)

    def begin(self, task: str) -> None:
        """Reset to `task`."""
        reply = self.client.reset(task_config(task))
        assert reply.obs_messages is not None, self.client.errors
        assert reply.is_legal

    def finish(self) -> float:
        """Say that the task is done and return OSWorld's score."""
        ended = self.client.step("Thought: done.\nAction: finished(content='done')")
        assert (ended.obs_messages, ended.is_done) == (None, True)
        score = self.client.evaluate()
        assert self.client.errors == []
        return score

    def press(self, *chords: str) -> None:
        """Press keys or chords such as ``ctrl c``, one after the other, in one prediction."""
        self._act("\n\n".join(f"hotkey(key='{chord}')" for chord in chords))

    def type(self, text: str) -> None:
        """Type `text`; a line break at its end is Enter."""
        content = text.replace("\n", "\\n")
        self._act(f"type(content='{content}')")

    def click(self, role: str, name: str) -> None:
        """Click the middle of the element that is called `name`, once it shows."""
        point = wait_until(lambda: self._find(role, name), SEEN_DEADLINE_S, f"{role} {name!r} on the screen")
        assert point is not None
        x, y = point
        self._act(f"click(start_box='({round(x * MODEL_SCALE[0])},{round(y * MODEL_SCALE[1])})')")

    def await_focus(self, title: str) -> None:
        """Wait until the window with the keyboard has `title` in its own."""
        wait_until(lambda: title in (seen := self.look(FOCUSED)) and seen, SEEN_DEADLINE_S, f"focus on {title!r}")

    def await_shown(self, role: str, name: str) -> None:
        """Wait until the element that is called `name` is on the screen."""
        wait_until(lambda: self._find(role, name), SEEN_DEADLINE_S, f"{role} {name!r} on the screen")

    def await_keyboard(self, role: str, name: str) -> None:
        """Wait until keys go to the element that is called `name`."""
        wait_until(lambda: self._find(role, name, "focused"), SEEN_DEADLINE_S, f"the keyboard on {role} {name!r}")

    def await_menu(self, program: str) -> None:
        """Wait until a menu of the window class `program` is open."""
        wait_until(lambda: program in self.look(MENUS).split(), SEEN_DEADLINE_S, f"a menu of {program}")

    def await_text(self, path: str, text: str) -> None:
        """Wait until the file at `path` has `text` in it: programs save their settings when they like."""
        self.await_output(f"grep -qF -- '{text}' {path} && echo saved", "saved")

    def await_output(self, command: str, text: str) -> None:
        """Wait until `command` prints `text` in the desktop's shell."""
        wait_until(lambda: text in (seen := self.look(command)) and seen, SEEN_DEADLINE_S, f"{text!r} from {command}")

    def look(self, command: str) -> str:
        """Return what `command` prints in the desktop's shell."""
        return guest_execute(self._server.pid, command)

    def screenshot(self) -> bytes:
        """Return the screen as it is now."""
        return httpx.get(self._server.url + "/screen", timeout=30).content

    def _act(self, actions: str) -> None:
        reply = self.client.step(f"Thought: go on.\nAction: {actions}")
        assert self.client.errors == []
        assert reply.is_legal
        assert not reply.is_done, f"{actions} ended the episode"
        assert reply.format_reward == 0.0

    def _find(self, role: str, name: str, state: str = "showing") -> tuple[float, float] | None:
        """Return the middle of the first element on the screen with this role, name and state, in pixels."""
        tree = httpx.get(guest_url(self._server.pid) + "/accessibility", timeout=60).json()["AT"]
        for element in ElementTree.fromstring(tree).iter(role):
            facts = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
            if facts.get("name") == name and facts.get(state) == "true" and "screencoord" in facts:
                x, y = _pair(facts["screencoord"])
                width, height = _pair(facts["size"])
                return x + width / 2, y + height / 2
        return None


def _pair(text: str) -> tuple[int, int]:
    first, _, second = text.strip("()").partition(",")
    return int(first), int(second)
