"""What the parts of a running pool hold: memory, open files, processes, threads, bytes on disk. It only looks."""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from up_process import Up

MIB = 1 << 20

PARTS = (
    ("router", "osworld_router"),
    ("env servers", "osworld_envpod"),
    ("task workers", "/worker/code/__main__.py"),
)
"""A part, and what the command lines of its processes have in them. All others but the launcher are the desktops'."""

LIVED_LONG_ENOUGH_S = 60.0
"""A process younger than this is still loading what it needs."""

Row = dict[str, float]


@dataclass
class _Held:
    """What one process holds."""

    pss_mib: float
    rss_mib: float
    files: int
    threads: int


@dataclass
class Samples:
    """Rows of a run, and each long-lived process by itself."""

    rows: list[tuple[float, Row]] = field(default_factory=list)
    lives: dict[tuple[str, int, float], list[tuple[float, _Held]]] = field(default_factory=lambda: defaultdict(list))
    """By part, process id and start: a part that is killed every few minutes hides what each of its processes gains."""

    @property
    def last_s(self) -> float:
        """Return when the last row was taken, in seconds from the start."""
        return self.rows[-1][0] if self.rows else 0.0

    def column(self, name: str, since_s: float) -> list[tuple[float, float]]:
        """Return the seconds and values of one figure."""
        return [(at, row.get(name, 0.0)) for at, row in self.rows if at >= since_s]

    def oldest(self, part: str, since_s: float) -> list[tuple[float, _Held]]:
        """Return the rows of the process of `part` that was seen for longest."""
        lives = [[row for row in life if row[0] >= since_s] for (of, _, _), life in self.lives.items() if of == part]
        return max(lives, key=len, default=[])


class Sampler:
    """Looks at a pool every so often while it is entered."""

    def __init__(self, up: Up, pause_s: float, folders: dict[str, Path]) -> None:
        self._up = up
        self._pause_s = pause_s
        self._folders = folders
        self._seen: dict[int, float] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler")
        self.samples = Samples()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._is_over.wait(self._pause_s):
            self.samples.rows.append((time.monotonic() - began, self._look(time.monotonic() - began)))

    def _look(self, at_s: float) -> Row:
        row: Row = defaultdict(float)
        pids = [self._up.process.pid, *self._up.descendants()]
        for pid in pids:
            try:
                process = psutil.Process(pid)
                part, born, held = self._part(process), process.create_time(), _held(process)
            except (psutil.Error, OSError):
                continue  # it ended meanwhile
            self._seen[pid] = born
            if time.time() - born > LIVED_LONG_ENOUGH_S:
                self.samples.lives[part, pid, born].append((at_s, held))
            for scope in (part, "pool"):
                row[f"{scope} PSS MiB"] += held.pss_mib
                row[f"{scope} RSS MiB"] += held.rss_mib
                row[f"{scope} open files"] += held.files
                row[f"{scope} processes"] += 1
                row[f"{scope} threads"] += held.threads
        row["strays processes"] = len(self.strays(set(pids)))
        for name, folder in self._folders.items():
            row[f"{name} disk MiB"] = disk_bytes(folder, lambda path: path.suffix != ".log") / MIB
        row["logs disk MiB"] = disk_bytes(self._up.run_dir, lambda path: path.suffix == ".log") / MIB
        return dict(row)

    def strays(self, kept: set[int]) -> list[int]:
        """Return processes that were the pool's once and live on, not among `kept`: who started them forgot them."""
        found = []
        for pid in self._seen.keys() - kept:
            try:
                process = psutil.Process(pid)
                if process.create_time() == self._seen[pid] and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(pid)
            except psutil.Error:
                pass
        return found

    def _part(self, process: psutil.Process) -> str:
        if process.pid == self._up.process.pid:
            return "launcher"
        words = " ".join(process.cmdline())
        return next((name for name, word in PARTS if word in words), "desktops")


def _held(process: psutil.Process) -> _Held:
    memory = process.memory_full_info()
    return _Held(memory.pss / MIB, memory.rss / MIB, process.num_fds(), process.num_threads())


def disk_bytes(folder: Path, counts: Callable[[Path], bool]) -> int:
    """Return what the files below `folder` that count take on disk."""
    total = 0
    for parent, _, names in os.walk(folder):  # passes over a folder that is gone meanwhile, where Path.rglob raises
        for path in (Path(parent, name) for name in names):
            try:
                if path.is_file() and not path.is_symlink() and counts(path):
                    total += path.stat().st_blocks * 512
            except OSError:
                continue  # gone meanwhile
    return total
