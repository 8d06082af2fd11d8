"""Writes the record of each episode: a line for each call, and the screens. The form is in `osworld_contract.record`.

All writing is done by one thread beside the event loop. What cannot be written is said once in the log; it never
holds an episode up and is never its fault. The record of the episode under way is locked, so that no env server of this
machine removes it; the lock ends with the process.
"""

import fcntl
import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Final

from pydantic import ValidationError

from osworld_contract.faults import Fault
from osworld_contract.places import episodes_dir
from osworld_contract.record import RECORD_FILE, TASK_FILE, RecordEnd, RecordHead, RecordLine
from osworld_contract.task import Task
from osworld_envpod.episode import Episode, Observation
from osworld_envpod.settings import EnvServerSettings

logger = logging.getLogger(__name__)

BACKLOG_MAX: Final = 16
"""Calls that may wait for the disk, each with a screenshot in memory. With more, the record ends here. A guess."""

PRUNE_EVERY: Final = 16
"""Episodes between two looks at the size of all records: the look costs a stat of each file."""

BEGINNING_S: Final = 60.0
"""A folder without a record stays for this time: it is about to get one. A guess."""

_PNG: Final = b"\x89PNG"


class Recorder:
    """The record of the one episode that an env server plays at a time."""

    def __init__(self, settings: EnvServerSettings) -> None:
        self._settings = settings
        self._root = settings.episode_records_dir or episodes_dir()
        self._max_bytes = settings.episode_records_max_mib * 1024**2
        self._is_on = settings.episode_records
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._given = 0
        self._done = 0  # written by the thread alone, as `_given` is by the event loop
        self._begun = 0
        self._episode_id = ""
        """The episode whose record is being written; empty once that failed."""
        self._lines = 0
        self._actions_noted = 0
        self._lock: BinaryIO | None = None
        """The record under way, open to be locked; the thread's."""

    def reset(self, episode: Episode, duration_s: float, frame: bytes | None) -> None:
        """Begin the record of `episode` with its reset, which took `duration_s` and showed `frame`."""
        if not self._is_on or episode.task is None:
            return
        task = episode.task
        head = RecordHead(
            episode_id=episode.id,
            task_id=task.id,
            instruction=task.instruction,
            provider=self._settings.provider.value,
            pool=self._settings.pool,
            uid=self._settings.uid,
            began=time.time() - duration_s,
            replay_of=episode.replay_of,
        )
        self._episode_id, self._lines, self._actions_noted = episode.id, 0, 0
        is_due = self._begun % PRUNE_EVERY == 0
        self._begun += 1
        self._later(episode.id, lambda: self._begin(head, task, is_due))
        line = RecordLine(
            operation="reset",
            at=time.time(),
            duration_s=duration_s,
            replayed=not episode.is_whole,
            fault=episode.fault,
        )
        self._note(episode, frame, line)

    def step(
        self, episode: Episode, prediction: str, seen: Observation, duration_s: float, frame: bytes | None
    ) -> None:
        """Add a step. `frame` is the screen that its reply shows, None where it shows none."""
        done_before = self._actions_noted
        self._actions_noted = len(episode.action_history)
        line = RecordLine(
            operation="step",
            at=time.time(),
            duration_s=duration_s,
            replayed=not episode.is_whole,
            prediction=prediction.encode("utf-8", "replace").decode(),  # a lone surrogate has no UTF-8
            actions=[entry.encode("utf-8", "replace").decode() for entry in episode.action_history[done_before:]],
            is_done=seen.is_done,
            format_reward=seen.format_reward,
            fault=seen.fault,
        )
        self._note(episode, frame, line)

    def replay(self, episode: Episode, duration_s: float) -> None:
        """Add that the calls before were those of a lost episode, played again; or the fault that it came to."""
        line = RecordLine(operation="replay", at=time.time(), duration_s=duration_s, fault=episode.fault)
        self._note(episode, None, line)

    def evaluate(self, episode: Episode, duration_s: float) -> None:
        """Add an evaluate: the score of `episode`, or its fault."""
        fault = None if episode.score is not None else episode.fault
        line = RecordLine(operation="evaluate", at=time.time(), duration_s=duration_s, score=episode.score, fault=fault)
        self._note(episode, None, line)

    def unanswered(self, episode: Episode, fault: Fault, duration_s: float) -> None:
        """Add an evaluate that got `fault` before the evaluator was asked; `episode` may have its score yet."""
        line = RecordLine(operation="evaluate", at=time.time(), duration_s=duration_s, fault=fault)
        self._note(episode, None, line)

    def between(self, episode: Episode, idle_s: float) -> None:
        """Add the fault of `episode`, which was seen `idle_s` after its last call, while none was under way."""
        line = RecordLine(operation="between", at=time.time(), duration_s=idle_s, fault=episode.fault)
        self._note(episode, None, line)

    def end(self, end: RecordEnd) -> None:
        """Add `end` to the record of its episode, unless that is under way, or has a score or fault as its end."""
        logger.info("Episode %s ended for its client in a %s: %s", end.episode_id, end.operation, end.fault.header)
        if self._is_on:
            self._thread.submit(self._end, end)

    def close(self) -> None:
        """Write what is left. Can run twice."""
        self._is_on = False
        self._thread.shutdown(wait=True)
        self._unlock()

    def _note(self, episode: Episode, frame: bytes | None, line: RecordLine) -> None:
        """Have `line` written, unless this episode's record has none of the lines before it."""
        if episode.id != self._episode_id:
            return
        if self._given - self._done >= BACKLOG_MAX:
            self._give_up(episode.id, f"{BACKLOG_MAX} writes wait for the disk")
            return
        name = None if frame is None else f"{self._lines:03}{'.png' if frame.startswith(_PNG) else '.jpg'}"
        self._lines += 1
        whole = line.model_copy(update={"screenshot": name})
        self._later(episode.id, lambda: self._append(episode.id, whole, frame))

    def _later(self, episode_id: str, write: Callable[[], None]) -> None:
        self._given += 1
        self._thread.submit(self._written, episode_id, write)

    def _written(self, episode_id: str, write: Callable[[], None]) -> None:
        """Run `write` in the writing thread, unless a write of this episode failed before."""
        try:
            if episode_id == self._episode_id:
                write()
        except OSError as error:
            self._give_up(episode_id, f"{error.filename or self._root}: {error.strerror or error}")
        finally:
            self._done += 1

    def _give_up(self, episode_id: str, why: str) -> None:
        logger.warning("The record of episode %s ends here: %s", episode_id, why)
        if self._episode_id == episode_id:
            self._episode_id = ""

    def _begin(self, head: RecordHead, task: Task, is_due: bool) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_due:
            prune(self._root, self._max_bytes)
        folder = self._root / head.episode_id
        folder.mkdir(mode=0o700)
        (folder / TASK_FILE).write_text(task.model_dump_json(exclude_unset=True), encoding="utf-8")
        self._unlock()
        self._lock = (folder / RECORD_FILE).open("xb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        (folder / RECORD_FILE).write_text(head.model_dump_json() + "\n", encoding="utf-8")

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _end(self, end: RecordEnd) -> None:
        try:
            with (self._root / end.episode_id / RECORD_FILE).open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                text = file.read()
                size = text.rfind(b"\n") + 1  # who was killed may have left half a line
                if size and not _has_end(text[:size]):
                    file.truncate(size)
                    file.seek(size)
                    file.write(end.line.model_dump_json().encode() + b"\n")
        except (FileNotFoundError, BlockingIOError):
            logger.info("The record of episode %s is not here, or under way: it is left as it is", end.episode_id)
        except OSError as error:
            logger.warning("The record of episode %s goes without its end: %s", end.episode_id, error.strerror or error)

    def _append(self, episode_id: str, line: RecordLine, frame: bytes | None) -> None:
        folder = self._root / episode_id
        if frame is not None and line.screenshot is not None:
            (folder / line.screenshot).write_bytes(frame)
        with (folder / RECORD_FILE).open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")


def _has_end(text: bytes) -> bool:
    """Return whether the last line of a record is a score or a fault."""
    try:
        line = RecordLine.model_validate_json(text.splitlines()[-1])
    except ValidationError:  # the head
        return False
    return line.score is not None or line.fault is not None


def prune(root: Path, max_bytes: int, now: float | None = None) -> list[Path]:
    """Remove the oldest records under `root` until the rest is within `max_bytes`.

    Args:
        root: The folder of all records.
        max_bytes: What they may take. Those of episodes under way are counted and stay.
        now: Unix time in seconds; the present if it is not given.

    Returns:
        The folders that were removed, the oldest first.
    """
    now = time.time() if now is None else now
    sizes: list[tuple[float, int, Path]] = []
    for folder in root.iterdir():
        try:
            stats = [path.stat() for path in folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):  # another env server removed it; no record at all
            continue
        newest = max((stat.st_mtime for stat in stats), default=folder.stat().st_mtime)
        sizes.append((newest, sum(stat.st_size for stat in stats), folder))
    total = sum(size for _, size, _ in sizes)
    removed = []
    for newest, size, folder in sorted(sizes):
        if total <= max_bytes:
            break
        if _is_in_use(folder, now - newest):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        total -= size
        removed.append(folder)
    return removed


def _is_in_use(folder: Path, age_s: float) -> bool:
    try:
        with (folder / RECORD_FILE).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no record yet, or one that never came to be
        return age_s < BEGINNING_S
    return False
