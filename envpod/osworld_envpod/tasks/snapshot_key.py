"""What a desktop with a task set up depends on of the task: the name of its snapshot, or why there must be none.

The rest, image and machine, is in the name of the template that the snapshot is made over.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from osworld_contract.task import Task
from osworld_envpod.tasks.settings import worker_python

FORMAT: Final = 1
"""Grows with whatever makes another desktop of the same task."""

NEVER_FROZEN: Final = frozenset({"googledrive", "login", "proxy", "update_browse_history", "upload_file"})
"""Types of setup steps whose outcome is not the desktop's own, or not of this moment: sessions at servers, times
relative to now, files of the host."""

_OF_THE_MOMENT: Final = re.compile(
    r"\b(date|datetime|localtime|strftime|timedatectl|faketime|hwclock)\b|\btime\.(time|ctime|now)\b|vnc", re.IGNORECASE
)
"""Words in a setup that may depend on the time of day, or hold a VNC connection. One too many costs only speed."""

_INDEX: Final = "index.json"
"""Of a mirror. Source: `osworld_envpod.tasks.child.downloads`."""


def why_never_frozen(task: Task) -> str:
    """Return why the state that the setup of `task` makes must not serve again, empty where it may."""
    if not task.config:
        return "it has no setup"
    if task.proxy:
        return "it wants a proxy"
    for step in task.config:
        if step.type in NEVER_FROZEN:
            return f"its setup has a step of type {step.type}"
        for text in _texts(dict(step.parameters)):
            if (found := _OF_THE_MOMENT.search(text)) is not None:
                return f"its setup names {found.group()!r}"
    return ""


def snapshot_key(task: Task, mirror: Path | None) -> str:
    """Return the name of the snapshot of `task`: of its setup, the files of `mirror` in it, and desktop-env."""
    config = [step.model_dump(mode="json") for step in task.config]
    urls = sorted({text for step in task.config for text in _texts(dict(step.parameters)) if "://" in text})
    parts = {
        "format": FORMAT,
        "config": config,
        "worker": str(worker_python()),  # its folder is named by a hash of what is installed in it
        "files": [_mirrored(url, mirror) for url in urls] if mirror is not None else [],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _texts(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _mirrored(url: str, mirror: Path) -> list[JsonValue]:
    """Return what changes when the mirror's copy of `url` does."""
    name = hashlib.sha256(url.encode()).hexdigest()
    try:
        index = json.loads((mirror / _INDEX).read_text(encoding="utf-8"))
        name = str(index.get(url, name))
    except (OSError, ValueError, AttributeError):
        pass
    try:
        status = (mirror / name).stat()
    except OSError:
        return [url]
    return [url, name, status.st_ino, status.st_size, status.st_mtime_ns]
