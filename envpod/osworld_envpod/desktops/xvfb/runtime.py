"""The guest runtime that is bound into sandboxes: found, refreshed and kept by the guest's own program.

The guest is another part, so it is started and not imported.
"""

import asyncio
import fcntl
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from osworld_contract.faults import FaultReason, fault_error

REFRESH_DEADLINE_S: Final = 60.0
EVIDENCE_CHARS: Final = 1000
TRIES: Final = 3
"""Of refresh and lock, between which another installation on this machine may come. A guess: once is rare already."""

logger = logging.getLogger(__name__)


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")

    venv: Path
    code: Path


@dataclass(frozen=True)
class GuestRuntime:
    """Folders of the runtime, locked against removal while `locks` are open."""

    venv: Path
    code: Path
    locks: tuple[int, ...]

    def release(self) -> None:
        """Allow that the folders are removed when a newer runtime is built."""
        for fd in self.locks:
            os.close(fd)


async def find_runtime() -> GuestRuntime:
    """Return the runtime, with the guest agent's code as it is in this installation.

    Raises:
        FaultError: ``desktop_start_failed``: it was never built, or cannot be refreshed.
    """
    for _ in range(TRIES - 1):
        reply = await _refreshed()
        try:
            return _held(reply)
        except OSError as error:  # another installation's refresh looks whether it is used, or has removed it
            logger.info("the guest runtime was lost between refresh and lock (%s); once more", error.strerror)
    try:
        return _held(await _refreshed())
    except OSError as error:
        raise fault_error(FaultReason.DESKTOP_START_FAILED, f"the guest runtime cannot be read: {error}") from error


async def _refreshed() -> _Reply:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "osworld_guest.provision", "--code-only", stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(REFRESH_DEADLINE_S):
            output, errors = await process.communicate()
    except TimeoutError as error:
        raise fault_error(
            FaultReason.DESKTOP_START_FAILED, f"the guest runtime was not refreshed in {REFRESH_DEADLINE_S:g} s"
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines() or ["no output"]
        raise fault_error(FaultReason.DESKTOP_START_FAILED, lines[-1][:EVIDENCE_CHARS], exit_code=process.returncode)
    try:
        return _Reply.model_validate_json(output)
    except ValidationError as error:
        raise fault_error(FaultReason.DESKTOP_START_FAILED, f"the guest runtime cannot be read: {error}") from error


def _held(reply: _Reply) -> GuestRuntime:
    """Lock the runtime's folders.

    Raises:
        OSError: One is gone, or held by who removes those that are not used; nothing is locked.
    """
    locks: list[int] = []
    try:
        for path in (reply.venv, reply.code):
            locks.append(_lock(path))
    except OSError:
        for fd in locks:
            os.close(fd)
        raise
    return GuestRuntime(reply.venv, reply.code, tuple(locks))


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        path.stat()  # who held it before may have removed what `fd` is open on
    except OSError:
        os.close(fd)
        raise
    return fd
