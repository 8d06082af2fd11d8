"""Follows the log of one env_idx: of the pod that has it, and of the next one when it moves.

One thread watches who has the number, one more reads each pod's log. A thread that reads cannot be interrupted: one
whose pod has lost the number is told to be silent, and ends with its connection.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from osworld_contract.kube_names import LABEL_ENV_EPOCH
from osworld_env.cluster.log_lines import LogLine, LogPrinter
from osworld_env.cluster.pools import Pools
from osworld_env.errors import ClusterError, GoneError

AGAIN_S: Final = 1.0
"""Before a log that ended is asked for again: its container restarts, or the API server is away. A guess."""

WATCH_S: Final = 300.0
"""The API server ends a watch after that, and a new one begins with a list."""


@dataclass(frozen=True)
class Wish:
    """What of a log is wanted."""

    container: str
    make_printer: Callable[[int, str], LogPrinter]
    """From epoch and pod."""
    say: Callable[[str], None]
    """Takes each line to be shown; called by one thread at a time."""
    note: Callable[[str], None]
    """Takes what is to be known besides."""


@dataclass
class _Reader:
    """Reads the log of one pod, from `since` on, until it is told to be silent."""

    pools: Pools
    pod: str
    wish: Wish
    printer: LogPrinter
    lock: threading.Lock
    is_over: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"log of {self.pod}", daemon=True).start()

    def _run(self) -> None:
        while not self.is_over.is_set():
            try:
                for line in self.pools.log_lines(self.pod, self.wish.container, self.printer.last, follow=True):
                    if self.is_over.is_set():
                        return
                    self._show(LogLine.parse(line))
            except GoneError:
                return
            except ClusterError as error:
                self._note(f"the log of {self.pod} broke off, and is asked for again: {error.message}")
            self.is_over.wait(AGAIN_S)

    def _show(self, line: LogLine) -> None:
        with self.lock:
            text = self.printer.shown(line)
            if text is not None and not self.is_over.is_set():
                self.wish.say(text)

    def _note(self, text: str) -> None:
        with self.lock:
            if not self.is_over.is_set():
                self.wish.note(text)


def follow(pools: Pools, pool: str, env_idx: int, wish: Wish, first: LogPrinter | None) -> None:
    """Show the log of an env_idx until interrupted. `first` has shown what the present pod has said."""
    lock = threading.Lock()
    readers: dict[str, _Reader] = {}
    try:
        while True:
            try:
                for found in pools.watch_holders(pool, env_idx, WATCH_S):
                    _turn_to(found, pools, wish, readers, lock, first)
            except ClusterError as error:
                with lock:
                    wish.note(f"who has env {env_idx} is not known, and is asked again: {error.message}")
            threading.Event().wait(AGAIN_S)
    finally:
        for reader in readers.values():
            reader.is_over.set()


def _turn_to(
    holders: list[dict[str, Any]],
    pools: Pools,
    wish: Wish,
    readers: dict[str, _Reader],
    lock: threading.Lock,
    first: LogPrinter | None,
) -> None:
    """Read the logs of `holders`, each a pod with the number, and of nobody else."""
    by_uid = {pod["metadata"]["uid"]: pod for pod in holders}
    for uid in [uid for uid in readers if uid not in by_uid]:
        readers.pop(uid).is_over.set()
    for uid, pod in by_uid.items():
        if uid in readers:
            continue
        name, epoch = pod["metadata"]["name"], int(pod["metadata"]["labels"].get(LABEL_ENV_EPOCH, 0))
        is_first = first is not None and (first.pod, first.epoch) == (name, epoch)
        printer = first if is_first and first is not None else wish.make_printer(epoch, name)
        if not is_first:
            with lock:
                wish.note(f"env {printer.env_idx} is at {name}, epoch {epoch}")
        readers[uid] = _Reader(pools, name, wish, printer, lock)
        readers[uid].start()
