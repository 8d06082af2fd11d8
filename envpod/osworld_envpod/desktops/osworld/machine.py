"""A machine of desktop-env's, as the env server sees it: a process of the task worker's environment that keeps it.

What the process may block in has no deadlines; here each has one, and where it passes the process is told to end its
machine. It does the same when its channel closes, which the kernel sees to where the env server is killed.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_contract.redact import redact
from osworld_envpod.desktops.base import GuestAddresses
from osworld_envpod.osworld_guest import OsworldGuestClient
from osworld_envpod.tasks.environment import await_environment

CODE: Final = Path(__file__).parent / "child" / "__main__.py"
ORDER_DEADLINE_S: Final = 60.0
"""For a pause or resume where the caller gives more. A guess with room: the engine takes 50 ms."""
END_DEADLINE_S: Final = 60.0
"""For a machine to be ended by its process, before that is killed. A guess: an engine under load removes a container in
some seconds; EC2 answers in one."""
LOOK_S: Final = 2.0
"""Pause between two looks for the guest's first screen."""
LOOK_DEADLINE_S: Final = 15.0
OUTPUT_LINES: Final = 20
OUTPUT_LINE_CHARS: Final = 300
LINE_MAX_BYTES: Final = 1 << 20

PASSED_ON: Final = (
    "PATH", "HOME", "LANG", "TZ", "USER", "LOGNAME", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
)  # fmt: skip
"""Variables of the env server that every such process gets; a provider adds its own."""

logger = logging.getLogger(__name__)


class Booted(BaseModel):
    """Where a machine is, as its process says."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    host: str
    server_port: int
    chromium_port: int
    vnc_port: int
    vlc_port: int


@dataclass(frozen=True)
class BootPlan:
    """A machine that is to be booted."""

    provider: str
    """Name of the child's module."""
    python: Path
    options: Mapping[str, Any]
    deadline_s: float
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beyond `PASSED_ON`."""
    secrets: tuple[str, ...] = ()
    """What its output is cleared of."""


class Machine:
    """One machine and its process. `boot` makes it; `end` leaves nothing of it, and can run twice."""

    def __init__(
        self, plan: BootPlan, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._plan = plan
        self._process = process
        self._reader = reader
        self._writer = writer
        self._tail: deque[str] = deque(maxlen=OUTPUT_LINES)
        self._replies: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the machine has ended by itself, with why."""
        self._following = asyncio.create_task(self._follow(), name="machine events")
        self._reading = asyncio.create_task(self._read_output(), name="machine output")
        self._booted: Booted | None = None

    @classmethod
    async def boot(cls, plan: BootPlan) -> "Machine":
        """Return a machine whose guest has shown a screen.

        Raises:
            FaultError: It did not come up by the plan's deadline; nothing of it is left.
        """
        machine = await cls._spawn(plan)
        try:
            async with asyncio.timeout(plan.deadline_s):
                await machine._come_up()
        except TimeoutError as error:
            await machine.end()
            raise fault_error(
                FaultReason.GUEST_TIMEOUT,
                f"the {plan.provider} machine showed no screen in {plan.deadline_s:g} s",
                output=list(machine._tail),
            ) from error
        except BaseException:
            await machine.end()
            raise
        return machine

    @property
    def id(self) -> str:
        """Return its name at its provider."""
        assert self._booted is not None
        return self._booted.id

    @property
    def is_alive(self) -> bool:
        """Say whether nobody has seen it end."""
        return not self.ended.done()

    @property
    def addresses(self) -> GuestAddresses:
        """Return where its guest is."""
        at = self._booted
        assert at is not None
        return GuestAddresses(
            at.host, at.server_port, at.chromium_port, vlc_port=at.vlc_port, vnc_port=at.vnc_port, has_agent=False
        )

    async def order(self, operation: str, deadline_s: float) -> None:
        """Have the process pause or resume the machine.

        Raises:
            FaultError: ``desktop_lost``: it could not.
        """
        try:
            async with asyncio.timeout(min(deadline_s, ORDER_DEADLINE_S)):
                self._writer.write(json.dumps({"op": operation}).encode() + b"\n")
                reply = await self._replies.get()
        except TimeoutError as error:
            raise fault_error(FaultReason.DESKTOP_LOST, f"the machine did not {operation} in time") from error
        if reply["event"] != "done":
            raise self._failure(reply, FaultReason.DESKTOP_LOST)

    async def end(self) -> None:
        """End the machine and its process. Not to be cancelled: what is left then costs somebody's money."""
        if not self.ended.done():
            self.ended.set_result("it was ended")
        await asyncio.shield(self._end())

    async def _end(self) -> None:
        self._writer.close()  # the order to end
        try:
            async with asyncio.timeout(END_DEADLINE_S):
                if await self._process.wait():
                    logger.warning("A machine's process failed to end it: %s", " / ".join(self._tail)[-1000:])
        except TimeoutError:
            logger.error("A machine's process did not end it in %g s: it is killed", END_DEADLINE_S)  # noqa: TRY400 - a sentence
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        await asyncio.wait([self._following, self._reading])

    @classmethod
    async def _spawn(cls, plan: BootPlan) -> "Machine":
        await await_environment(plan.python)
        if not plan.python.exists():
            raise fault_error(
                FaultReason.DESKTOP_START_FAILED,
                f"{plan.python} is not there; `python -m osworld_envpod.tasks.provision` makes the environment in which"
                " desktop-env runs",
            )
        ours, theirs = socket.socketpair()
        argv = [str(plan.python), "-I", "-B", "-W", "ignore", str(CODE), plan.provider, str(theirs.fileno())]
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    json.dumps(dict(plan.options)),
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # Ctrl-C is for the env server, which ends it in order
                    stdin=DEVNULL,
                    stdout=PIPE,
                    stderr=STDOUT,
                    env=passed_on | dict(plan.environment),
                )
            except OSError as error:
                ours.close()
                message = f"{plan.python} could not be started ({error.strerror})"
                raise fault_error(FaultReason.DESKTOP_START_FAILED, message) from error
        reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_MAX_BYTES)
        return cls(plan, process, reader, writer)

    async def _come_up(self) -> None:
        reply = await self._replies.get()
        if reply["event"] != "booted":
            raise self._failure(reply, FaultReason.DESKTOP_START_FAILED)
        try:
            self._booted = Booted.model_validate(reply)
        except ValidationError as error:
            raise fault_error(FaultReason.DESKTOP_START_FAILED, "desktop-env gave no address") from error
        logger.info("Machine %s is started at %s; waiting for its guest", self.id, self._booted.host)
        async with OsworldGuestClient(self.addresses) as guest:
            while True:
                try:
                    await guest.screenshot(LOOK_DEADLINE_S)
                except FaultError:
                    if self.ended.done():
                        raise self._failure(
                            {"message": self.ended.result()}, FaultReason.DESKTOP_START_FAILED
                        ) from None
                    await asyncio.sleep(LOOK_S)
                else:
                    return

    def _failure(self, reply: dict[str, Any], otherwise: FaultReason) -> FaultError:
        reason = FaultReason(reply["reason"]) if reply.get("reason") in set(FaultReason) else otherwise
        message = redact(str(reply.get("message") or "its process ended"), self._plan.secrets)
        evidence: dict[str, JsonValue] = {}
        if "traceback" in reply:
            evidence["traceback"] = redact(reply["traceback"], self._plan.secrets)
        if reply.get("exit_code") is not None:
            evidence["exit_code"] = reply["exit_code"]
        if "message" not in reply:
            evidence["output"] = " / ".join(self._tail)[-1000:]
        return fault_error(reason, message, operation=None, **evidence)

    async def _follow(self) -> None:
        """Sort what the process says, until its end."""
        with contextlib.suppress(ConnectionError, ValueError):
            while line := await self._reader.readline():
                event: dict[str, Any] = json.loads(line)
                if event["event"] == "progress":
                    logger.info("%s: %s", self._plan.provider, redact(event["message"], self._plan.secrets))
                elif event["event"] == "ended":
                    self._note_end(event["message"])
                else:
                    self._replies.put_nowait(event)
        self._note_end("the process that kept it ended")
        self._replies.put_nowait({"event": "gone"})

    def _note_end(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_result(why)

    async def _read_output(self) -> None:
        assert self._process.stdout is not None
        rest = ""
        while chunk := await self._process.stdout.read(65536):
            *lines, rest = (rest + chunk.decode(errors="replace")).replace("\r", "\n").split("\n")
            rest = rest[-OUTPUT_LINE_CHARS:]
            for line in lines[-OUTPUT_LINES:]:
                clean = redact(line[:OUTPUT_LINE_CHARS], self._plan.secrets)
                self._tail.append(clean)
                logger.debug("%s: %s", self._plan.provider, clean)
