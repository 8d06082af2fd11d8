"""The worker's folders: what each is for, and what of it lasts how long. Blocking; called in a thread.

Evaluator code writes to some of them, and may run what an agent made. So nothing that it wrote is followed or copied
by the env server, everything is emptied between two operations, and what setup steps kept for the evaluation is moved
out of its reach as soon as the setup has ended.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from osworld_contract.faults import FaultReason, fault_error

WORK: Final = "work"
"""Files of the running operation, in a folder of its own: what steps and getters fetch and keep."""
WRITABLE: Final = ("home", "cwd", "tmp", WORK)
_KEPT: Final = "kept"
"""What the episode's setup kept. Not in the sandbox."""
_TRASH: Final = "trash"
_FOLDERS: Final = (*WRITABLE, "shm")
"""Where the worker can write: emptied before each operation."""
LOCK: Final = "lock"
"""Held while the folders are in use: whatever can be locked was left behind."""
ETC: Final = {
    "passwd": "worker:x:1000:1000::/worker/home:/bin/sh\n",
    "group": "worker:x:1000:\n",
}
"""The sandbox's own files of /etc."""
_UPLOADED: Final = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}_")
"""Names of a setup's downloads (``SetupController._download_setup``): of no use to an evaluation."""


class WorkerFolders:
    """The folders under one `cache_dir`; the worker's user is `owner` on the host, None for the env server's own."""

    def __init__(self, cache_dir: Path, owner: int | None) -> None:
        self._cache_dir = cache_dir
        self._owner = owner
        self._lock: int | None = None

    def prepare(self) -> None:
        """Make the folders, all of them empty, and lock them until they are removed.

        Raises:
            FaultError: ``disk_full``, or ``worker_start_failed`` where they cannot be written.
        """
        with _faults(self._cache_dir):
            self._cache_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._lock is None:
                self._lock = os.open(self._cache_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in (*_FOLDERS, _KEPT, _TRASH, "etc"):
                (self._cache_dir / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            (self._cache_dir / "etc").chmod(0o755)
            for name, text in ETC.items():
                (self._cache_dir / "etc" / name).write_text(text, encoding="ascii")
                (self._cache_dir / "etc" / name).chmod(0o644)
            for name in _FOLDERS:
                self._give(self._cache_dir / name)
            self._forget()
            self._clear()

    def begin_setup(self) -> str:
        """Forget the last episode and return the name of a new operation's folder in `WORK`.

        Raises:
            FaultError: ``disk_full``, or ``worker_start_failed`` where it cannot be made.
        """
        with _faults(self._cache_dir):
            self._forget()
            return self._begin().name

    def keep_setup(self, name: str) -> None:
        """Take the setup's folder away from the worker, for the evaluations of its episode."""
        with _faults(self._cache_dir):
            (self._cache_dir / WORK / name).rename(self._cache_dir / _KEPT / name)

    def forget_setup(self) -> None:
        """Forget the last episode, where the next one begins on a desktop that is set up already.

        Raises:
            FaultError: As `begin_setup`.
        """
        with _faults(self._cache_dir):
            self._forget()

    def keeps_files(self) -> bool:
        """Say whether the setup kept a file that an evaluation may look at."""
        kept = (names for _, _, names in os.walk(self._cache_dir / _KEPT))
        return any(not _UPLOADED.match(name) for names in kept for name in names)

    def begin_evaluation(self) -> str:
        """Return the name of a new operation's folder in `WORK`, with a copy of what the setup steps kept.

        Of its own, as getters take a file that is there for the one they would fetch.

        Raises:
            FaultError: ``disk_full``, or ``worker_start_failed`` where it cannot be made.
        """
        with _faults(self._cache_dir):
            folder = self._begin()
            for kept in (self._cache_dir / _KEPT).iterdir():
                shutil.copytree(kept, folder, symlinks=True, dirs_exist_ok=True, ignore=_without_uploads)
            for parent, folders, files in os.walk(folder):
                for name in (*folders, *files):
                    self._give(Path(parent, name))
            return folder.name

    def remove(self) -> None:
        """Remove the folders, and `cache_dir` if nothing else is in it. Can run twice."""
        if self._cache_dir.is_dir():
            with contextlib.suppress(OSError):
                (self._cache_dir / _TRASH).mkdir(exist_ok=True, mode=0o700)
                (self._cache_dir / _KEPT).mkdir(exist_ok=True, mode=0o700)
                self._forget()
                self._clear()
            for name in (*_FOLDERS, _KEPT, _TRASH, "etc"):
                shutil.rmtree(self._cache_dir / name, ignore_errors=True)
            with contextlib.suppress(OSError):
                (self._cache_dir / LOCK).unlink(missing_ok=True)
                self._cache_dir.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _begin(self) -> Path:
        self._clear()
        folder = self._cache_dir / WORK / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
        self._give(folder)
        return folder

    def _give(self, path: Path) -> None:
        if self._owner is not None:
            os.chown(path, self._owner, self._owner, follow_symlinks=False)

    def _forget(self) -> None:
        _discard(self._cache_dir / _KEPT, self._cache_dir / _TRASH)

    def _clear(self) -> None:
        for name in _FOLDERS:
            if (self._cache_dir / name).is_dir():
                (self._cache_dir / name).chmod(0o700)
                _discard(self._cache_dir / name, self._cache_dir / _TRASH)
        _discard(self._cache_dir / _TRASH, self._cache_dir / _TRASH)


def _discard(folder: Path, trash: Path) -> None:
    """Remove all that is in `folder`, however it was left: closed to us, or nested beyond any path's length.

    Folders are moved to the top of `trash` before they are gone through, so no path gets long. No process of the
    worker's may be running: a link that appears meanwhile would be followed.
    """
    pending = [folder]
    while pending:
        current = pending.pop()
        with os.scandir(current) as items:
            for item in list(items):
                if item.is_dir(follow_symlinks=False):
                    os.chmod(item.path, 0o700)  # noqa: PTH101 - of what scandir gives
                    aside = trash / uuid.uuid4().hex
                    os.rename(item.path, aside)  # noqa: PTH104
                    pending.append(aside)
                else:
                    os.unlink(item.path)  # noqa: PTH108
        if current != folder:
            current.rmdir()


def _without_uploads(_: str, names: list[str]) -> set[str]:
    return {name for name in names if _UPLOADED.match(name)}


@contextlib.contextmanager
def _faults(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, shutil.Error) as error:
        is_full = error.errno in {errno.ENOSPC, errno.EDQUOT} or "No space left" in str(error)
        reason = FaultReason.DISK_FULL if is_full else FaultReason.WORKER_START_FAILED
        raise fault_error(reason, f"the task worker cannot write {path}: {error.strerror or error}") from error
