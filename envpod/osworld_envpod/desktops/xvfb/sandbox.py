"""One start of a desktop, whatever ends it again: it is started once and ended once.

``Sandbox``   a session and everything that was started in it
``Doors``     the sockets that lead into it, and its log; made before it
``Maker``     starts sandboxes: `bwrap` on a machine of ours, `container` in a pod
"""

import asyncio
import contextlib
import os
import shutil
import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_envpod.desktops.base import GuestAddresses
from osworld_envpod.desktops.xvfb.sandbox_log import SandboxLog
from osworld_envpod.guest import CleanProof, GuestClient

BACKLOG: Final = 128


@dataclass(frozen=True)
class SandboxSockets:
    """Where the env server reaches the sandbox."""

    agent: Path
    chromium: Path
    vlc: Path


class Doors:
    """Sockets and log of one sandbox, in a folder of its own, until they are passed to it."""

    def __init__(self, folder: Path) -> None:
        """Make them.

        Raises:
            OSError: The folder or something in it cannot be made.
        """
        self.sockets = SandboxSockets(folder / "agent", folder / "chromium", folder / "vlc")
        with contextlib.ExitStack() as made:
            os.mkdir(folder, 0o700)  # noqa: PTH102 - one system call, worth no thread
            listeners = [made.enter_context(_listen(path)) for path in vars(self.sockets).values()]
            self.listening_fds = [listener.fileno() for listener in listeners]
            """Of agent, chromium and vlc."""
            log_out, self.log_fd = os.pipe()
            made.callback(os.close, self.log_fd)
            self.log = SandboxLog(log_out, folder / "session.log")
            self._theirs = made.pop_all()

    def close(self) -> None:
        """Close this process's copies of what was passed on: only the sandbox holds its own ends from now on."""
        self._theirs.close()

    def discard(self) -> None:
        """Remove them, where no sandbox came of it."""
        self.close()
        self.log.close()
        shutil.rmtree(self.sockets.agent.parent, ignore_errors=True)


class Sandbox(ABC):
    """A running session."""

    def __init__(self, boot_id: str, doors: Doors, ended: "asyncio.Future[int | None]") -> None:
        self.boot_id = boot_id
        self.sockets = doors.sockets
        self.ended = ended
        """Done when it is gone, with its exit code where there is one."""
        self._log = doors.log

    @property
    def is_alive(self) -> bool:
        """Whether the session runs."""
        return not self.ended.done()

    async def await_proof(self, deadline_s: float) -> CleanProof:
        """Wait until the desktop is drawn and return what it shows of its cleanliness.

        Raises:
            FaultError: ``desktop_start_failed`` with the log's last lines: it ended, or was not ready in time.
        """
        addresses = GuestAddresses("", 0, 0, 0, 0, server_socket=self.sockets.agent)
        async with GuestClient(addresses) as client:
            try:
                return await client.proof(deadline_s)
            except FaultError as error:
                raise await self.failure("the desktop did not come up") from error

    async def failure(self, message: str) -> FaultError:
        """Return the fault for `message`, with exit code and last log lines as evidence."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):  # a process that is about to end explains itself in its last lines
                await asyncio.shield(self.ended)
                await self._log.drained.wait()
        tail = self._log.tail()
        hint = f": {tail[-1]}" if tail else ""
        return fault_error(
            FaultReason.DESKTOP_START_FAILED,
            f"{message}{hint}",
            exit_code=self.ended.result() if self.ended.done() else None,
            log=list(tail),
        )

    async def kill(self) -> None:
        """End every process inside; can run twice.

        There is no gentler rung: nothing in a sandbox is kept.

        Raises:
            FaultError: ``desktop_lost``: even that was not enough.
        """
        await self._end()
        self._log.close()
        shutil.rmtree(self.sockets.agent.parent, ignore_errors=True)

    @abstractmethod
    async def _end(self) -> None:
        """End every process inside; can run twice."""


class Maker(ABC):
    """Makes sandboxes of one kind."""

    @property
    @abstractmethod
    def spares(self) -> int:
        """Return how many sandboxes may wait beside the one in use."""

    @property
    @abstractmethod
    def start_deadline_s(self) -> float:
        """Return the seconds that the first start may take."""

    @abstractmethod
    async def prepare(self) -> None:
        """Make what lasts from one sandbox to the next; can run twice.

        Raises:
            FaultError: ``desktop_start_failed`` or ``desktop_lost``: sandboxes cannot be made here.
        """

    @abstractmethod
    async def make(self, boot_id: str, folder: Path) -> Sandbox:
        """Start a sandbox whose sockets and log are in `folder`, which is made.

        Raises:
            FaultError: ``desktop_start_failed``, ``desktop_lost`` or ``disk_full``.
        """

    @abstractmethod
    async def release(self) -> None:
        """Give back what `prepare` made; can run twice."""


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(BACKLOG)
    return listener
