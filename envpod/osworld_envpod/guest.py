"""The env server's client of the guest wire: screenshot, calls and commands, each with a deadline and typed faults.

It speaks to a guest over its Unix socket where there is one, else over TCP. One client per start of a desktop: build a
new one after a revert.
"""

import asyncio
import base64
import hashlib
import os
import time
from collections.abc import Sequence
from typing import Final, Self, TypeVar

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from osworld_contract.actions import Call, CallsRequest
from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_contract.fork import ENTROPY_BYTES, AfterFork
from osworld_envpod.desktops.base import GuestAddresses

PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC: Final = b"\xff\xd8\xff"
REFUSED: Final = 422
OK: Final = 200
MESSAGE_MAX_CHARS: Final = 1000
REFRESHES_MAX: Final = 3
LATE_S: Final = 0.8
"""A fork's clock is behind by what the guest took to set it, and a clean desktop's may be 1 s off. Measured under
emulation on 2 cores at load 5: 0.4 to 1 s for the first request after it woke, 0.03 to 0.07 s for the second."""
WINDOWS_DEADLINE_S: Final = 2.0
"""A guess with room: 1 ms. Without an answer the step goes on; its episode cannot be played again then."""

DIGEST_CHARS: Final = 32
"""Of a SHA-256 in hexadecimal: 128 bits, far from any accident."""

_Model = TypeVar("_Model", bound=BaseModel)


class ScreenSize(BaseModel):
    """Size of the guest's screen in pixels."""

    width: int
    height: int


class AgentInfo(BaseModel):
    """What our own guest agent says of itself."""

    model_config = ConfigDict(extra="ignore")

    version: int
    boot_id: str
    unix_time_s: float
    screen: ScreenSize
    ready: bool


class CleanProof(AgentInfo):
    """What in a desktop its session itself did not make."""

    home: list[str]
    tmp: list[str]
    processes: list[str]
    selections: list[str]
    dconf_is_empty: bool
    screen_is_drawn: bool


class CommandResult(BaseModel):
    """How a command in the guest ended."""

    model_config = ConfigDict(extra="ignore")

    output: str
    error: str
    returncode: int = Field(default=0)


class GuestClient:
    """Talks to one guest. Use it as an async context manager, or call `close`."""

    def __init__(self, addresses: GuestAddresses) -> None:
        if addresses.server_socket is not None:
            connector: aiohttp.BaseConnector = aiohttp.UnixConnector(str(addresses.server_socket))
            self._base = "http://guest"
        else:
            connector = aiohttp.TCPConnector()
            self._base = f"http://{addresses.host}:{addresses.server_port}"
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections; can run twice."""
        await self._session.close()

    async def agent(self, deadline_s: float) -> AgentInfo:
        """Return who serves; waits for a guest that is still coming up.

        Raises:
            FaultError: ``guest_unreachable`` or ``guest_timeout``.
        """
        return _parse(AgentInfo, *await self._request("GET", "/agent", deadline_s))

    async def proof(self, deadline_s: float) -> CleanProof:
        """Return what our own agent found in its desktop.

        Raises:
            FaultError: ``guest_unreachable`` or ``guest_timeout``.
        """
        return _parse(CleanProof, *await self._request("GET", "/agent/proof", deadline_s))

    async def after_fork(self, boot_id: str, deadline_s: float) -> AgentInfo:
        """Give a virtual machine that was just forked its own name, the time of now, and entropy of its own.

        A time that took long to arrive is no longer that of now, and another one is sent.

        Raises:
            FaultError: ``desktop_start_failed`` where the guest could not do it, ``guest_unreachable``,
                ``guest_timeout``.
        """
        end = time.monotonic() + deadline_s
        for _ in range(REFRESHES_MAX):
            asked = time.monotonic()
            entropy = base64.b64encode(os.urandom(ENTROPY_BYTES)).decode()
            wanted = AfterFork(boot_id=boot_id, unix_time_s=time.time(), entropy_b64=entropy)
            body = wanted.model_dump_json().encode()
            status, reply = await self._request("POST", "/agent/after_fork", end - asked, body=body)
            if status != OK:
                raise fault_error(FaultReason.DESKTOP_START_FAILED, _message(reply), status=status)
            if time.monotonic() - asked <= LATE_S:
                break
        return _parse(AgentInfo, status, reply)

    async def screenshot(self, deadline_s: float) -> bytes:
        """Return the screen as the guest encoded it: PNG or JPEG, checked by its first bytes.

        Raises:
            FaultError: ``screenshot_missing``, ``guest_unreachable`` or ``guest_timeout``.
        """
        status, body = await self._request("GET", "/screenshot", deadline_s)
        if status != OK or not body.startswith((PNG_MAGIC, JPEG_MAGIC)):
            raise fault_error(
                FaultReason.SCREENSHOT_MISSING,
                f"the guest answered {status} with {len(body)} bytes that are no PNG or JPEG",
                status=status,
                start=body[:100].decode(errors="replace"),
            )
        return body

    async def windows(self) -> str | None:
        """Return a digest of window list and focused title, None where the guest does not tell them."""
        try:
            status, body = await self._request("GET", "/agent/windows", WINDOWS_DEADLINE_S)
        except FaultError:
            return None  # whoever needs the desktop finds out by itself
        return hashlib.sha256(body).hexdigest()[:DIGEST_CHARS] if status == OK else None

    async def look(self, deadline_s: float) -> tuple[bytes, str | None]:
        """Return what `screenshot` and `windows` do, of the same moment as nearly as can be.

        Raises:
            FaultError: As `screenshot` does.
        """
        windows = asyncio.create_task(self.windows())
        try:
            return await self.screenshot(deadline_s), await windows
        finally:
            windows.cancel()

    async def run_calls(self, calls: Sequence[Call], deadline_s: float) -> None:
        """Carry out `calls` in order.

        Raises:
            FaultError: ``action_refused`` where no desktop could do it, ``action_failed`` where this one did not,
                ``guest_unreachable``, ``guest_timeout``.
        """
        body = CallsRequest(calls=list(calls)).model_dump_json().encode()
        status, reply = await self._request("POST", "/agent/calls", deadline_s, body=body)
        if status != OK:
            reason = FaultReason.ACTION_REFUSED if status == REFUSED else FaultReason.ACTION_FAILED
            raise fault_error(reason, _message(reply), status=status)

    async def execute(self, command: str | list[str], deadline_s: float, *, shell: bool = False) -> CommandResult:
        """Run `command` in the guest to its end.

        Raises:
            FaultError: ``action_failed`` where the guest could not run it, ``guest_unreachable``, ``guest_timeout``.
        """
        request = _Execute(command=command, shell=shell, timeout=deadline_s).model_dump_json().encode()
        status, reply = await self._request("POST", "/execute", deadline_s, body=request)
        if status != OK:
            raise fault_error(FaultReason.ACTION_FAILED, _message(reply), status=status)
        return _parse(CommandResult, status, reply)

    async def _request(
        self, method: str, path: str, deadline_s: float, *, body: bytes | None = None
    ) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"} if body is not None else None
        try:
            async with (
                asyncio.timeout(deadline_s),
                self._session.request(method, self._base + path, data=body, headers=headers) as reply,
            ):
                return reply.status, await reply.read()
        except TimeoutError as error:
            raise fault_error(
                FaultReason.GUEST_TIMEOUT, f"the guest did not answer {path} in {deadline_s:g} s", path=path
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise fault_error(
                FaultReason.GUEST_UNREACHABLE,
                f"the guest refused or dropped the connection at {path}",
                path=path,
                error=type(error).__name__,
            ) from error


class _Execute(BaseModel):
    command: str | list[str]
    shell: bool
    timeout: float


def _parse(model: type[_Model], status: int, body: bytes) -> _Model:
    try:
        if status == OK:
            return model.model_validate_json(body)
        message = f"the guest answered {status}: {_message(body)}"
    except ValidationError as error:
        message = f"the guest's answer cannot be read: {error.error_count()} errors"
    raise _unreadable(message, status)


def _unreadable(message: str, status: int) -> FaultError:
    return fault_error(FaultReason.GUEST_UNREACHABLE, message, status=status)


def _message(body: bytes) -> str:
    """Return the message in an error reply of the guest wire, or the reply itself."""
    try:
        reply = _Error.model_validate_json(body)
    except ValidationError:
        return body[:MESSAGE_MAX_CHARS].decode(errors="replace")
    return reply.message[:MESSAGE_MAX_CHARS]


class _Error(BaseModel):
    message: str
