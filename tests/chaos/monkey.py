"""Breaks parts of a running pool, by the signals that break them in life."""

import logging
import random
import signal
import threading
from collections import Counter
from typing import Self

import psutil

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

FROZEN_S = 6.0
"""How long a frozen env server stays so: past the three probes that the router waits before it calls it lost."""


class Monkey:
    """Breaks something every so often while it is entered."""

    def __init__(self, up: Up, pause_s: float, seed: int) -> None:
        self._up = up
        self._pause_s = pause_s
        self._random = random.Random(seed)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monkey")
        self.done: Counter[str] = Counter()
        """What was broken how often."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(FROZEN_S + self._pause_s)

    def _run(self) -> None:
        while not self._is_over.wait(self._pause_s):
            what = self._random.choice([*VICTIMS, "frozen env server"])
            targets = self._processes(VICTIMS.get(what, VICTIMS["env server"]))
            if targets and self._break(self._random.choice(targets), what):
                self.done[what] += 1

    def _break(self, target: psutil.Process, what: str) -> bool:
        logger.info("%s %d", what, target.pid)
        try:
            if what in VICTIMS:
                target.kill()
                return True
            target.send_signal(signal.SIGSTOP)
            self._is_over.wait(FROZEN_S)
            target.send_signal(signal.SIGCONT)
        except psutil.NoSuchProcess:
            return False
        return True

    def _processes(self, part: str) -> list[psutil.Process]:
        """Return the pool's processes with `part` in their command line, without their like children."""
        found: dict[int, psutil.Process] = {}
        for pid in self._up.descendants():
            try:
                process = psutil.Process(pid)
                if part in " ".join(process.cmdline()) and process.ppid() not in found:
                    found[pid] = process
            except psutil.Error:
                continue
        return list(found.values())
