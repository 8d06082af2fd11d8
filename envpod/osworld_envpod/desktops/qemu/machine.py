"""One QEMU process: started, spoken to over QMP, ended. The only code that talks to QEMU."""

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import socket
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from qemu.qmp import EventListener, QMPClient, QMPError

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_envpod.desktops.qemu.argv import VmFiles

CONNECT_DEADLINE_S: Final = 30.0
"""For QEMU to connect. A guess with room: 0.1 s on an idle machine."""
REAP_DEADLINE_S: Final = 10.0
EXECUTE_DEADLINE_S: Final = 20.0
"""For QEMU to answer a command. A guess with room: milliseconds; a QEMU that hangs leaves a reset time for another."""
MOVE_DEADLINE_S: Final = 40.0
"""For a state to be loaded or saved, without RAM. Likewise: 40 ms."""
QUIT_DEADLINE_S: Final = 30.0
"""For QEMU to write what it holds and end."""
CONSOLE_TAIL_BYTES: Final = 4000
CONSOLE_TAIL_LINES: Final = 8
STDERR_LINES: Final = 5
ROOM_LEAST_BYTES: Final = 1 << 20
"""A disk with less is a full one: a machine's state did not fit, or a page of its RAM."""

_STATE_NAME: Final = "state"
_FORWARD: Final = re.compile(r"^\s*TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)", re.MULTILINE)
"""A line of ``info usernet``: protocol, file descriptor, address, port, guest's address, guest's port."""

_CONNECTION: Final = re.compile(
    r"^\s*TCP\[(ESTABLISHED|SYN_\w+|CLOSE_WAIT)\]\s+-?\d+\s+\S+\s+\d+\s+\S+\s+(\d+)", re.MULTILINE
)
"""As above, of a connection that nobody has ended; ended ones are listed for a while too."""

logger = logging.getLogger(__name__)
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # it logs what it also raises


class Machine:
    """One QEMU process and its QMP connection. Made by `launch`; `kill` ends it."""

    def __init__(self, process: asyncio.subprocess.Process, qmp: QMPClient, files: VmFiles, state_fd: int) -> None:
        self.files = files
        self._state_fd = state_fd
        self._process = process
        self._qmp = qmp
        self._errors = asyncio.create_task(_read_all(process))
        self.is_disk_full = False
        """Whether QEMU ended because it could not write what the guest wrote, to its disk or to its memory."""
        self.ended = asyncio.create_task(self._end(), name="qemu ended")
        """Done when QEMU has ended."""
        self._disk_watch = asyncio.create_task(self._end_on_full_disk(), name="qemu disk")

    @classmethod
    async def launch(cls, argv: Sequence[str], files: VmFiles, state: Path, *, is_loaded: bool) -> "Machine":
        """Start QEMU and wait until it speaks QMP.

        `state` is the file that is loaded, or where `is_loaded` is false may be saved. QEMU inherits it open: it may
        start no program, and sending it later is what uvloop's sockets cannot do.

        Raises:
            FaultError: ``desktop_start_failed``, with what QEMU said.
        """
        qmp = QMPClient("osworld-env")
        await qmp.start_server(str(files.qmp))
        try:
            state_fd = os.open(state, os.O_RDONLY if is_loaded else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, pass_fds=(state_fd,)
                )
            finally:
                os.close(state_fd)
        except BaseException:
            await _disconnect(qmp)
            raise
        machine = cls(process, qmp, files, state_fd)
        accepted = asyncio.ensure_future(qmp.accept())
        try:
            first = [accepted, machine.ended]
            await asyncio.wait(first, timeout=CONNECT_DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
            if accepted.done() and accepted.exception() is None:
                return machine
        except BaseException:
            await _cancel(accepted)
            await machine.kill()
            raise
        finally:
            files.qmp.unlink(missing_ok=True)
        await _cancel(accepted)
        raise await machine.failure("QEMU did not start")

    async def _end(self) -> None:
        # The kernel's answer to who writes into a file that cannot grow, such as the RAM of a template.
        if await self._process.wait() == -signal.SIGBUS and self._has_no_room():
            self.is_disk_full = True

    def _has_no_room(self) -> bool:
        with contextlib.suppress(OSError):
            return shutil.disk_usage(self.files.disk.parent).free < ROOM_LEAST_BYTES
        return False

    async def _end_on_full_disk(self) -> None:
        """End QEMU when the disk is full: it would keep the guest stopped, and everybody waiting."""
        with self._qmp.listener("BLOCK_IO_ERROR") as events:
            async for event in events:
                data = event["data"]
                if isinstance(data, dict) and data.get("nospace"):
                    self.is_disk_full = True
                    logger.error("no space is left for what the guest writes: %s", self.files.disk)
                    with contextlib.suppress(ProcessLookupError):
                        self._process.kill()

    @property
    def is_alive(self) -> bool:
        """Whether QEMU runs."""
        return not self.ended.done()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    async def execute(self, command: str, **arguments: object) -> Any:
        """Carry out one QMP command.

        Raises:
            FaultError: ``desktop_lost``: QEMU refused it or is gone.
        """
        try:
            async with asyncio.timeout(EXECUTE_DEADLINE_S):
                return await self._qmp.execute(command, arguments or None)
        except TimeoutError as error:
            raise fault_error(
                FaultReason.DESKTOP_LOST, f"QEMU did not answer {command} in {EXECUTE_DEADLINE_S:g} s", command=command
            ) from error
        except QMPError as error:
            raise fault_error(
                FaultReason.DESKTOP_LOST, f"QEMU did not carry out {command}: {error}", command=command
            ) from error

    async def forwarded_ports(self) -> Mapping[int, int]:
        """Return the ports on this machine's loopback by the guest's port."""
        text = await self.execute("human-monitor-command", **{"command-line": "info usernet"})
        return {int(guest): int(host) for host, guest in _FORWARD.findall(str(text))}

    async def connections(self) -> list[str]:
        """Return what is connected to the guest, each as ``STATE guest's port``."""
        text = await self.execute("human-monitor-command", **{"command-line": "info usernet"})
        return [f"{state} {port}" for state, port in _CONNECTION.findall(str(text))]

    def processors_s(self) -> tuple[float, float]:
        """Return the seconds of processor time that QEMU has used, and that it has waited for; of all its threads."""
        used_ns = waited_ns = 0
        for thread in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                used, waited, _ = thread.read_text().split()
                used_ns += int(used)
                waited_ns += int(waited)
        return used_ns / 1e9, waited_ns / 1e9

    async def load(self) -> None:
        """Load a template's state; the machine is paused afterwards.

        Raises:
            FaultError: ``desktop_start_failed``: the state cannot be read, or is not of this machine.
        """
        async with self._migration():
            await self.execute("migrate-incoming", uri=f"fd:{self._state_fd}")

    async def save(self, state: Path) -> None:
        """Stop the machine and write its state, less the RAM, which is in a file of its own.

        Raises:
            FaultError: It cannot be written.
        """
        await self.execute("stop")
        async with self._migration():
            await self._send_fd(state)
            await self.execute("migrate", uri=f"fd:{_STATE_NAME}")

    async def _send_fd(self, state: Path) -> None:
        """Give QEMU the open file under a name: unlike a load, a save takes no inherited one."""
        # qemu.qmp's own send_fd_scm reaches into asyncio's socket, which uvloop's is not.
        assert self._qmp._writer is not None
        theirs = self._qmp._writer.get_extra_info("socket").fileno()
        fd = os.open(state, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            with socket.socket(fileno=os.dup(theirs)) as sending:
                socket.send_fds(sending, [b" "], [fd])
            await self.execute("getfd", fdname=_STATE_NAME)
        finally:
            os.close(fd)

    @contextlib.asynccontextmanager
    async def _migration(self) -> AsyncIterator[None]:
        """Wait for the end of the migration that the block begins."""
        capabilities = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
        await self.execute("migrate-set-capabilities", capabilities=capabilities)
        with self._qmp.listener("MIGRATION") as events:
            yield
            waiting = asyncio.create_task(_end_of_migration(events))
            first = [waiting, self.ended]
            await asyncio.wait(first, timeout=MOVE_DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
            status = "QEMU ended" if self.ended.done() else f"not done in {MOVE_DEADLINE_S:g} s"
            status = waiting.result() if waiting.done() else status
            waiting.cancel()
        if status != "completed":
            raise await self.failure(f"QEMU could not move the state: {status}")

    async def quit(self) -> None:
        """Let QEMU write what it holds and end; kill it where that takes too long."""
        with contextlib.suppress(FaultError):
            await self.execute("quit")
            await asyncio.wait([self.ended], timeout=QUIT_DEADLINE_S)
        await self.kill()

    async def kill(self) -> None:
        """End QEMU and reap it; can run twice. There is no gentler rung: nothing of a fork is kept.

        Raises:
            FaultError: ``desktop_lost``: the kernel did not end it.
        """
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await asyncio.wait([self.ended], timeout=REAP_DEADLINE_S)
        self._disk_watch.cancel()
        await _disconnect(self._qmp)
        if self.is_alive:
            raise fault_error(FaultReason.DESKTOP_LOST, f"QEMU did not end in {REAP_DEADLINE_S:g} s", pid=self.pid)
        await self._errors

    async def failure(self, message: str) -> FaultError:
        """End QEMU and return the fault for `message`, with exit code, errors and the console's last lines."""
        had_ended = not self.is_alive
        await self.kill()
        is_disk_full = self.is_disk_full or self._has_no_room()
        errors = self._errors.result()
        console = console_tail(self.files.console)
        hint = errors[-1:] or console[-1:]
        return fault_error(
            FaultReason.DISK_FULL if is_disk_full else FaultReason.DESKTOP_START_FAILED,
            f"{message}{': ' + hint[0] if hint else ''}",
            exit_code=self._process.returncode if had_ended else None,
            errors=list(errors),
            console=list(console),
        )


def console_tail(console: Path) -> list[str]:
    """Return the last lines of a serial console."""
    try:
        with console.open("rb") as file:
            file.seek(max(0, console.stat().st_size - CONSOLE_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line[:300] for line in lines if line.strip()][-CONSOLE_TAIL_LINES:]


async def _end_of_migration(events: EventListener) -> str:
    async for event in events:
        data = event["data"]
        status = data["status"] if isinstance(data, dict) else "unknown"
        if status in ("completed", "failed", "cancelled"):
            return str(status)
    return "lost"


async def _read_all(process: asyncio.subprocess.Process) -> list[str]:
    """Read what QEMU writes to its standard error, to the end, and return the last lines."""
    assert process.stderr is not None
    lines: list[str] = []
    while chunk := await process.stderr.read(4096):
        lines = [*lines, *(line[:500] for line in chunk.decode(errors="replace").splitlines() if line)][-STDERR_LINES:]
    return lines


async def _cancel(task: asyncio.Future[None]) -> None:
    """End `task`, whatever it does, and look at what it raised."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


async def _disconnect(qmp: QMPClient) -> None:
    with contextlib.suppress(QMPError, EOFError, OSError):
        await qmp.disconnect()
