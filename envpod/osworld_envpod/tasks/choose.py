"""The task worker for an env server's settings, and its folder."""

import fcntl
import logging
import os
from pathlib import Path

import psutil

from osworld_contract.places import run_dir
from osworld_envpod.settings import EnvServerSettings
from osworld_envpod.tasks.folders import LOCK, WorkerFolders
from osworld_envpod.tasks.settings import WorkerSettings
from osworld_envpod.tasks.worker import TaskWorker

log = logging.getLogger(__name__)

FOLDER_PREFIX = "worker-"
"""A worker's folder is this and the process id of its env server."""


def worker_for(settings: EnvServerSettings) -> TaskWorker:
    """Return a task worker with a folder of its own, not started. Removes folders that killed env servers left."""
    sweep(run_dir())
    return TaskWorker(
        WorkerSettings(
            cache_dir=run_dir() / f"{FOLDER_PREFIX}{os.getpid()}",
            memory_limit_mib=settings.worker_memory_mib,
            client_password=settings.guest_password.get_secret_value(),
            environment=settings.worker_environment,
            mirror=settings.task_mirror,
            sandbox=settings.worker_sandbox,
        )
    )


def sweep(folder: Path) -> None:
    """Remove the workers' folders below `folder` whose env server has ended, whatever an agent left in them."""
    removed = []
    for left in sorted(folder.glob(f"{FOLDER_PREFIX}*")):
        try:
            with (left / LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                WorkerFolders(left, None).remove()
        except FileNotFoundError:  # being made or removed now, or of a version without locks
            pid = left.name.removeprefix(FOLDER_PREFIX)
            if not pid.isdigit() or psutil.pid_exists(int(pid)):
                continue
            WorkerFolders(left, None).remove()
        except (BlockingIOError, PermissionError):  # in use, or another user's
            continue
        if not left.exists():
            removed.append(left.name)
    if removed:
        log.info("removed what task workers of env servers that are gone had left: %s", ", ".join(removed))
