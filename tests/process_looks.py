"""Looks at processes that may end between two looks: what has ended has no name, no words and no environment."""

from pathlib import Path

import psutil


def runs(process: psutil.Process) -> bool:
    """Say whether `process` still runs; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def name_of(process: psutil.Process) -> str:
    """Return its name, empty where it has ended."""
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def words_of(process: psutil.Process) -> str:
    """Return its command line, empty where it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # one that waits to be reaped among them
        return ""


def environment_of(process: psutil.Process) -> bytes:
    """Return its environment as the kernel keeps it, empty where it has ended."""
    try:
        return Path(f"/proc/{process.pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
