"""Sandboxes on a machine of ours: one bwrap process and everything in it."""

import asyncio
import contextlib
import json
import logging
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from typing import Final

from osworld_contract.faults import FaultReason, fault_error
from osworld_envpod.desktops.os_faults import os_fault
from osworld_envpod.desktops.xvfb.host import read_host_facts
from osworld_envpod.desktops.xvfb.preflight import describe_missing, missing_programs, userns_problem
from osworld_envpod.desktops.xvfb.runtime import GuestRuntime, find_runtime
from osworld_envpod.desktops.xvfb.sandbox import Doors, Maker, Sandbox
from osworld_envpod.desktops.xvfb.sandbox_argv import HostFacts, SandboxPlan, sandbox_argv
from osworld_envpod.desktops.xvfb.settings import XvfbSettings

PID_DEADLINE_S: Final = 10.0
"""For bwrap to set up its namespaces. A guess with room: 30 ms."""

REAP_DEADLINE_S: Final = 10.0

ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""Of setpriv and bwrap, which clears it: nothing of the env server's environment gets near a desktop."""

logger = logging.getLogger(__name__)


class BwrapMaker(Maker):
    """Makes sandboxes with bubblewrap."""

    def __init__(self, settings: XvfbSettings) -> None:
        self._settings = settings
        self._runtime: GuestRuntime | None = None

    @property
    def spares(self) -> int:
        """Return what the settings say."""
        return self._settings.spares

    @property
    def start_deadline_s(self) -> float:
        """Return what the settings say."""
        return self._settings.start_deadline_s

    async def prepare(self) -> None:
        """Find the guest runtime, and lock it."""
        if self._runtime is None:
            if missing := await asyncio.to_thread(missing_programs):
                raise fault_error(FaultReason.DESKTOP_START_FAILED, describe_missing(missing))
            self._runtime = await find_runtime()

    async def make(self, boot_id: str, folder: Path) -> Sandbox:
        """Start bwrap."""
        assert self._runtime is not None
        facts = await asyncio.to_thread(read_host_facts)
        return await BwrapSandbox.boot(self._settings, self._runtime, facts, boot_id, folder)

    async def release(self) -> None:
        """Unlock the guest runtime."""
        if self._runtime is not None:
            self._runtime.release()
            self._runtime = None


class BwrapSandbox(Sandbox):
    """A running bwrap with a session as its PID 1."""

    def __init__(self, process: Process, boot_id: str, doors: Doors) -> None:
        super().__init__(boot_id, doors, asyncio.create_task(process.wait(), name=f"sandbox {boot_id[:8]}"))
        self._process = process
        self._init_fd: int | None = None

    @classmethod
    async def boot(
        cls, settings: XvfbSettings, runtime: GuestRuntime, facts: HostFacts, boot_id: str, folder: Path
    ) -> "BwrapSandbox":
        """Start a sandbox whose sockets and log are in `folder`, which is made.

        Raises:
            FaultError: ``desktop_start_failed`` or ``disk_full``.
        """
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as ours:
            try:
                doors = Doors(folder)
                undo.callback(doors.discard)
                ours.callback(doors.close)
                status_out, status_in = os.pipe()
                undo.callback(os.close, status_out)
                ours.callback(os.close, status_in)
                agent, chromium, vlc = doors.listening_fds
                plan = SandboxPlan(runtime.venv, runtime.code, boot_id, agent, chromium, vlc, status_in)
                process = await asyncio.create_subprocess_exec(
                    *sandbox_argv(settings, plan, facts),
                    stdin=DEVNULL,
                    stdout=doors.log_fd,
                    stderr=doors.log_fd,
                    env=ENVIRONMENT,
                    cwd="/",
                    pass_fds=[*doors.listening_fds, status_in],
                )
            except OSError as error:
                raise os_fault(error, "the sandbox") from error
            undo.pop_all()
        sandbox = cls(process, boot_id, doors)
        try:
            await sandbox._find_init(status_out)
        except BaseException:
            await sandbox.kill()
            raise
        return sandbox

    async def _find_init(self, status_fd: int) -> None:
        """Hold the sandbox's PID 1 by a descriptor: its number could be taken by another process later."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(status_fd, "rb")
        )
        try:
            async with asyncio.timeout(PID_DEADLINE_S):
                line = await reader.readline()
            if not line:
                reason = userns_problem() or "bwrap could not set up the sandbox"
                raise await self.failure(reason)
            self._init_fd = os.pidfd_open(json.loads(line)["child-pid"])
        except (TimeoutError, ProcessLookupError, KeyError, ValueError) as error:
            raise await self.failure("bwrap did not say which process it started") from error
        finally:
            transport.close()

    async def _end(self) -> None:
        """Kill PID 1, and reap.

        The kernel ends the whole PID namespace with its PID 1, and reports PID 1 dead only when all others are; bwrap
        itself is killed where that takes too long.
        """
        for target in ("init", "bwrap"):
            with contextlib.suppress(ProcessLookupError):
                if target == "init" and self._init_fd is not None:
                    signal.pidfd_send_signal(self._init_fd, signal.SIGKILL)
                elif self.is_alive:
                    self._process.kill()
            done, _ = await asyncio.wait([self.ended], timeout=REAP_DEADLINE_S)
            if done:
                break
            logger.error("%s of sandbox %s did not end in %g s", target, self.boot_id, REAP_DEADLINE_S)
        else:
            raise fault_error(FaultReason.DESKTOP_LOST, "a desktop's processes could not be ended")
        if self._init_fd is not None:
            os.close(self._init_fd)
            self._init_fd = None
