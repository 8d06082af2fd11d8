"""Real xvfb desktops for tests, and ways to look into them. A failed test leaves the screen and the log."""

import base64
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import psutil

from osworld_contract.actions import Call
from osworld_contract.faults import FaultError
from osworld_envpod.desktops.base import DesktopState
from osworld_envpod.desktops.xvfb import XvfbDesktop, XvfbSettings
from osworld_envpod.guest import CommandResult, GuestClient
from osworld_guest.layout import SESSION_LOG
from waiting import wait_for

COMMAND_DEADLINE_S = 30.0
WINDOW_DEADLINE_S = 20.0
REVERT_DEADLINE_S = 60.0
OUT = Path("out") / "failed-tests"


_T = TypeVar("_T")


async def eventually(look: Callable[[], Awaitable[_T]], deadline_s: float, what: str) -> _T:
    """Return the first true value that `look` gives; as `wait_for`, which it types for coroutine functions."""
    found: _T = await wait_for(look, deadline_s, what)
    return found


@dataclass
class Machine:
    """A running desktop and the client of its present start."""

    desktop: XvfbDesktop
    guest: GuestClient

    @property
    def url(self) -> str:
        """Return where the guest wire is reached by TCP."""
        return f"http://{self.desktop.addresses.host}:{self.desktop.addresses.server_port}"

    async def run(self, script: str) -> CommandResult:
        """Run `script` in the desktop's bash."""
        return await self.guest.execute(["/bin/bash", "-c", script], COMMAND_DEADLINE_S)

    async def output(self, script: str) -> str:
        """Return what `script` prints; it must end well."""
        result = await self.run(script)
        assert result.returncode == 0, result
        return result.output

    async def succeeds(self, script: str) -> bool:
        """Return whether `script` ends well."""
        return (await self.run(script)).returncode == 0

    async def call(self, name: str, *args: str | int | float) -> None:
        """Carry out one call."""
        await self.guest.run_calls([Call(name=name, args=args)], COMMAND_DEADLINE_S)

    async def post(self, path: str, json: object) -> httpx.Response:
        """Post `json` to the guest wire by TCP, as desktop-env does."""
        async with httpx.AsyncClient(base_url=self.url, timeout=COMMAND_DEADLINE_S) as client:
            return await client.post(path, json=json)

    async def revert(self) -> None:
        """Revert the desktop and connect to its new start."""
        await self.guest.close()
        await self.desktop.revert(REVERT_DEADLINE_S)
        self.guest = GuestClient(self.desktop.addresses)

    async def open_terminal(self) -> None:
        """Open a terminal by its key and wait until its shell waits for input."""
        await self.call("hotkey", "ctrl", "alt", "t")

        async def is_there() -> bool:
            return "gnome-terminal-server" in (await self.run("wmctrl -lx; xdotool getactivewindow")).output

        await eventually(is_there, WINDOW_DEADLINE_S, "a terminal window")
        await eventually(self._has_prompt, WINDOW_DEADLINE_S, "a prompt in the terminal")

    async def _has_prompt(self) -> bool:
        async with httpx.AsyncClient(base_url=self.url, timeout=COMMAND_DEADLINE_S) as client:
            output = (await client.get("/terminal")).json()["output"]
        return bool(output) and "$" in output

    async def typed(self, text: str) -> None:
        """Type `text` and Return at the desktop's terminal."""
        await self.call("write", f"{text}\n")

    async def read(self, path: str) -> bytes | None:
        """Return a file of the desktop, None where there is none."""
        result = await self.run(f"base64 -w0 {path}")
        return base64.b64decode(result.output) if result.returncode == 0 else None


@contextlib.asynccontextmanager
async def machine(run_dir: Path, **settings: int) -> AsyncIterator[Machine]:
    """Give a running desktop, and stop it."""
    chosen = XvfbSettings(run_dir=run_dir, **{"spares": 0} | settings)  # type: ignore[arg-type] # only ints are passed
    async with XvfbDesktop(chosen) as desktop:
        running = Machine(desktop, GuestClient(desktop.addresses))
        try:
            yield running
        except BaseException:
            await _save_evidence(running)
            raise
        finally:
            await running.guest.close()


async def _save_evidence(running: Machine) -> None:
    """Save what the session said, its processes and the screen."""
    if running.desktop.state is DesktopState.READY:
        with contextlib.suppress(FaultError, OSError):
            OUT.mkdir(parents=True, exist_ok=True)
            name = os.environ.get("PYTEST_CURRENT_TEST", "desktop").split("::")[-1].split(" ")[0].replace("/", "_")
            asked = f"ps -eo pid,ppid,stat,wchan:20,args; tail -n 50 {SESSION_LOG}; timeout 5 wmctrl -m"
            (OUT / f"{name}.txt").write_text((await running.run(asked)).output)
            (OUT / f"{name}.png").write_bytes(await running.guest.screenshot(COMMAND_DEADLINE_S))


def sandbox_processes(parent_pid: int) -> list[psutil.Process]:
    """Return every process below `parent_pid` that belongs to a sandbox, bwrap first."""
    found: list[psutil.Process] = []
    for child in psutil.Process(parent_pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == "bwrap":
                found += [child, *child.children(recursive=True)]
    return found
