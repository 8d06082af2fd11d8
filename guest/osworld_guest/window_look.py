"""Which windows there are and which has the focus, read from the X server itself: some requests, no program started.

An env server asks for it after each step, beside the screenshot, so it has to cost next to nothing.
"""

from dataclasses import dataclass

from Xlib import X
from Xlib.display import Display
from Xlib.error import XError
from Xlib.xobject.drawable import Window


@dataclass(frozen=True)
class WindowLook:
    """The windows that the window manager manages."""

    windows: tuple[tuple[str, str], ...]
    """Class and title of each, sorted: the order in which they were opened depends on the moment."""
    focused: str
    """Title of the one with the focus, empty where none has it."""


class WindowWatcher:
    """Looks at the windows of one X display. Not thread-safe."""

    def __init__(self, display: str) -> None:
        self._display = Display(display)
        self._root = self._display.screen().root
        names = ("_NET_CLIENT_LIST", "_NET_ACTIVE_WINDOW", "_NET_WM_NAME")
        self._clients, self._active, self._name = (self._display.intern_atom(name) for name in names)

    def look(self) -> WindowLook:
        """Return what is there now. A window that goes meanwhile is left out.

        Raises:
            Xlib.error.ConnectionClosedError: The X server is gone.
        """
        windows = []
        for window_id in self._ids(self._clients):
            window = self._display.create_resource_object("window", window_id)
            try:
                class_names = window.get_wm_class() or ("", "")
                windows.append((".".join(class_names), self._title(window)))
            except XError:
                continue
        focused = ""
        for window_id in self._ids(self._active)[:1]:
            try:
                focused = self._title(self._display.create_resource_object("window", window_id)) if window_id else ""
            except XError:
                continue
        return WindowLook(tuple(sorted(windows)), focused)

    def _ids(self, atom: int) -> list[int]:
        value = self._root.get_full_property(atom, X.AnyPropertyType)
        return list(value.value) if value is not None else []

    def _title(self, window: Window) -> str:
        value = window.get_full_property(self._name, X.AnyPropertyType)
        raw = value.value if value is not None else window.get_wm_name() or ""
        return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
