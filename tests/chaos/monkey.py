"""Breaks parts of a running pool, by the signals that break them in life, and the way to them by lost packets."""

import logging
import random
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Self
from urllib.parse import urlsplit

import psutil

from chaos.own_network import cut_off
from up_process import Up

logger = logging.getLogger(__name__)

VICTIMS = {
    "env server": "osworld_envpod",
    "router": "osworld_router",
    "X server": "Xvfb",
    "guest agent": "osworld_guest --display",
    "worker": "__main__.py worker",
}
"""Who is killed: a part of the command line of its process."""

FROZEN: Final = {f"frozen {part}": part for part in VICTIMS}
"""Who is stopped for a while: it says nothing, keeps its connections, and goes on as if nothing had been."""

FROZEN_S: Final = (0.5, 8.0)
"""How long: some are past the three probes after which a router calls an env server lost."""

FROZEN_FOR_GOOD: Final = {f"{part} frozen for good": part for part in ("X server", "guest agent", "worker")}
"""Who is stopped and not woken while anything is played: the env server that it belongs to must end it once needed."""

SANDBOX: Final = "bwrap"
"""Has the command line of what it starts in its own; to stop it stops nothing."""

CUT_OFF: Final = "cut off env server"
"""It lives and works on, and no packet gets to it or from it. Only in a network of the test's own."""

CUT_OFF_S: Final = (0.5, 8.0)
"""How long: some of them are over before the router calls it lost, and what was sent is sent again by TCP."""


class Breaker(ABC):
    """Breaks something every so often while it is entered."""

    longest_s: float
    """How long one break takes at most, what is mended included."""

    def __init__(self, pause_s: float, seed: int) -> None:
        """Break the first thing `pause_s` after it was entered, and each one as long after the one before."""
        self._pause_s = pause_s
        self._random = random.Random(seed)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__)
        self.done: Counter[str] = Counter()
        """What was broken how often."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(self.longest_s + self._pause_s)

    def _run(self) -> None:
        while not self._is_over.wait(self._pause_s):
            if broken := self._break_one():
                self.done[broken] += 1

    @abstractmethod
    def _break_one(self) -> str | None:
        """Break something, and return what; None where it was gone already."""


class Monkey(Breaker):
    """Breaks processes of a pool on this machine."""

    longest_s = max(*FROZEN_S, *CUT_OFF_S)

    def __init__(self, up: Up, pause_s: float, seed: int, spared: str = "", only: Sequence[str] = ()) -> None:
        """Kill all but `spared` and freeze all for a while; or do what `only` names, twice as often if twice."""
        super().__init__(pause_s, seed)
        self._up = up
        self._names = [*only] or [name for name in (*VICTIMS, *FROZEN) if name != spared]
        self._asleep: list[psutil.Process] = []
        """Whom nobody wakes before the end."""

    def __exit__(self, *about: object) -> None:
        super().__exit__(*about)
        for target in self._asleep:
            self._wake(target)

    def _break_one(self) -> str | None:
        what = self._random.choice(self._names)
        if what == CUT_OFF:
            self._cut_off()
            return what
        targets = self._processes(what)
        return what if targets and self._break(self._random.choice(targets), what) else None

    def _cut_off(self) -> None:
        entry = self._random.choice(self._up.registry.envs)
        seconds = self._random.uniform(*CUT_OFF_S)
        port = urlsplit(entry.url).port
        assert port is not None
        logger.info("%s %s for %.1f s", CUT_OFF, entry.url, seconds)
        with cut_off(port):
            self._is_over.wait(seconds)

    def _break(self, target: psutil.Process, what: str) -> bool:
        logger.info("%s %d", what, target.pid)
        try:
            if what in VICTIMS:
                target.kill()
                return True
            target.suspend()
            if what in FROZEN_FOR_GOOD:
                self._asleep.append(target)
                return True
        except psutil.NoSuchProcess:
            return False
        self._is_over.wait(self._random.uniform(*FROZEN_S))
        self._wake(target)
        return True

    @staticmethod
    def _wake(target: psutil.Process) -> None:
        with suppress(psutil.NoSuchProcess):  # somebody ended it meanwhile
            target.resume()

    def _processes(self, what: str) -> list[psutil.Process]:
        """Return those of the pool's processes that `what` may break, without their like children."""
        frozen = FROZEN | FROZEN_FOR_GOOD
        part = VICTIMS[frozen.get(what, what)]
        found: dict[int, psutil.Process] = {}
        for pid in self._up.descendants():
            try:
                process = psutil.Process(pid)
                if what in frozen and process.name() == SANDBOX:
                    continue
                if part in " ".join(process.cmdline()) and process.ppid() not in found:
                    found[pid] = process
            except psutil.Error:
                continue
        return list(found.values())
