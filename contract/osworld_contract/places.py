"""Where osworld-env keeps what it builds and what it runs on this machine. Nothing is kept in a checkout."""

import os
from pathlib import Path

CACHE_VARIABLE = "OSWORLD_CACHE_DIR"
SHARED_VARIABLE = "OSWORLD_SHARED_DIR"
SYSTEM_CACHE = Path("/var/cache/osworld-env")


def cache_dir() -> Path:
    """Return the folder of this machine's caches: task worker's and guest's environments, downloads, running desktops.

    ``OSWORLD_CACHE_DIR``, else ``$XDG_CACHE_HOME/osworld-env``, else ``~/.cache/osworld-env``. For root without either
    it is ``/var/cache/osworld-env``: desktops run as an unprivileged user, who cannot reach into root's home.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "osworld-env"
    if os.geteuid() == 0:
        return SYSTEM_CACHE
    return Path.home() / ".cache" / "osworld-env"


def shared_dir() -> Path:
    """Return the folder of what the env servers of a machine make for each other: images, templates, files of tasks.

    ``OSWORLD_SHARED_DIR``, which is a volume in an env pod, else the cache folder.
    """
    chosen = os.environ.get(SHARED_VARIABLE)
    return Path(chosen) if chosen else cache_dir()


def worker_venv_dir() -> Path:
    """Return the task worker's virtual environment (desktop-env and what its evaluators need)."""
    return cache_dir() / "task-worker"


def guest_venv_dir() -> Path:
    """Return the virtual environment that is bound into xvfb desktops (pyautogui and the guest agent's needs)."""
    return cache_dir() / "guest"


def vm_image_dir() -> Path:
    """Return the folder of built guest images, one folder for each recipe."""
    return cache_dir() / "vm-images"


def fetched_image_dir() -> Path:
    """Return the folder of images that were fetched from an address, one folder for each."""
    return shared_dir() / "fetched-images"


def vm_template_dir() -> Path:
    """Return the folder of booted, frozen virtual machines to fork, and of the proof that KVM works."""
    return shared_dir() / "vm-templates"


def task_snapshot_dir() -> Path:
    """Return the folder of virtual machines that were frozen after a task's setup."""
    return shared_dir() / "vm-snapshots"


def downloads_dir() -> Path:
    """Return the folder of whole files that tasks have downloaded."""
    return shared_dir() / "downloads"


def run_dir() -> Path:
    """Return the folder in which running env servers keep their desktops."""
    return cache_dir() / "run"


def episodes_dir() -> Path:
    """Return the folder in which env servers keep the records of episodes, one folder for each."""
    return shared_dir() / "episodes"
