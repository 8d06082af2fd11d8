"""The walls around a worker that has no sandbox of its own: what is asked of the child, and what it could do.

In a pod the worker runs beside the env server, under its user, where bubblewrap may not make namespaces. There the
kernel's Landlock keeps it from files and ports that it does not need; `osworld_envpod.tasks.child.walls` has the rest.
"""

import contextlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from osworld_envpod.tasks.folders import WRITABLE
from osworld_envpod.tasks.readable import ETC_FILES, FONT_CACHE, USR_LINKS, environment_of, interpreter_folders
from osworld_envpod.tasks.settings import WorkerSettings

log = logging.getLogger(__name__)

DEVICES: Final = ("full", "null", "random", "urandom", "zero")
USERS: Final = ("group", "passwd")
"""Files of /etc with the names of users, of which a sandbox has its own."""
PUBLIC_PORTS: Final = (53, 80, 443)
"""What getters ask of the internet: names by TCP, and web pages."""


_GAPS: Final = (
    (1, "files of the env server's user and memory of its programs (boot with landlock in lsm=, Linux 5.13 or newer)"),
    (4, "all TCP ports (Linux 6.7 or newer)"),
    (6, "signals to the env server (Linux 6.12 or newer)"),
)
"""The version of Landlock that closes a gap, and the gap. Source: landlock(7), VERSIONS."""


def walls_argument(settings: WorkerSettings, code: Path) -> str:
    """Return what the child is told, as JSON. `code` is the child's own folder."""
    environment = environment_of(settings.python)
    read = [
        Path("/usr"), *(Path("/", name) for name in USR_LINKS), *(Path("/etc", name) for name in (*ETC_FILES, *USERS)),
        FONT_CACHE, Path("/proc"), code, *interpreter_folders(settings.python), *([environment] if environment else []),
    ]  # fmt: skip
    write = [*(settings.cache_dir / name for name in WRITABLE), *(Path("/dev", name) for name in DEVICES)]
    return json.dumps(
        {
            "read": [str(path) for path in read],
            "write": [str(path) for path in write],
            "ports": sorted({*PUBLIC_PORTS, *_ports_of(settings.environment.values())}),
        }
    )


def log_walls(found: dict[str, Any]) -> None:
    """Say what the kernel has of the walls, and what is open where it lacks some."""
    version = int(found["landlock"])
    gaps = [gap for since, gap in _GAPS if version < since]
    if not found["seccomp"]:
        gaps.append("sockets in the file system, tracing and limits of other processes (no filter of system calls)")
    if gaps:
        log.warning("evaluators run without a sandbox, Landlock %d: open to them are %s", version, "; ".join(gaps))
    else:
        log.info("evaluators run without a sandbox, behind Landlock %d and seccomp", version)


def _ports_of(values: Iterable[str]) -> list[int]:
    """Return the ports of those `values` that are addresses: an evaluator's model, a proxy."""
    found = []
    for value in values:
        with contextlib.suppress(ValueError):  # no address, as keys are none
            parts = urlsplit(value)
            if parts.scheme and parts.hostname and parts.port:
                found.append(parts.port)
    return found
