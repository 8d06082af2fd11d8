"""The guest agent: what it holds, and its own endpoints (``/agent``, calls, screenshot, accessibility, screen size).

Screen, executor and the look at the windows have one thread each, as their X connections are bound to one; a call that
takes long does not hold up a screenshot.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from osworld_contract.actions import CallsRequest
from osworld_contract.fork import AfterFork
from osworld_guest import after_fork, layout, proof
from osworld_guest.calls import CallExecutor, CallRefusedError
from osworld_guest.commands import CommandTimeoutError, run_command
from osworld_guest.replies import error_reply
from osworld_guest.screen import Screen, encode_png
from osworld_guest.window_look import WindowWatcher
from osworld_guest.windows import list_windows

VERSION: Final = 1
"""Of the agent's own endpoints."""

REFUSED: Final = 422
TREE_DEADLINE_S: Final = 60.0
TERMINAL_CLASS: Final = "gnome-terminal-server.Gnome-terminal"

logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class AgentParts:
    """What an agent is made of. `screen`, `executor` and `watcher` belong to their threads."""

    boot_id: str
    display: str
    screen: Screen
    screen_thread: ThreadPoolExecutor
    executor: CallExecutor
    executor_thread: ThreadPoolExecutor
    watcher: WindowWatcher
    watcher_thread: ThreadPoolExecutor


class Agent:
    """Serves the endpoints that need the screen, the executor, or the accessibility bus."""

    def __init__(self, parts: AgentParts) -> None:
        self._parts = parts
        self._boot_id = parts.boot_id

    async def _on_screen(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._parts.screen_thread, work)

    async def about(self, _request: Request) -> Response:
        """Return who serves. It is served once the desktop is drawn, so an answer means ready."""
        return JSONResponse(self._about())

    def _about(self) -> dict[str, object]:
        return {
            "version": VERSION,
            "boot_id": self._boot_id,
            "unix_time_s": time.time(),
            "screen": {"width": self._parts.screen.width_px, "height": self._parts.screen.height_px},
            "ready": True,
        }

    async def prove(self, _request: Request) -> Response:
        """Return everything that the session itself did not make, and whether the screen is drawn."""
        facts = await asyncio.to_thread(
            lambda: {
                "home": proof.home_leftovers(),
                "tmp": proof.tmp_leftovers(),
                "processes": proof.foreign_processes(),
                "selections": proof.held_selections(self._parts.display),
                "dconf_is_empty": proof.dconf_is_empty(),
            }
        )
        is_uniform = await self._on_screen(lambda: self._parts.screen.grab().is_uniform())
        return JSONResponse(self._about() | facts | {"screen_is_drawn": not is_uniform})

    async def after_fork(self, request: Request) -> Response:
        """Become the fork that the caller names: with its clock, entropy and boot id. For virtual machines only."""
        try:
            wanted = AfterFork.model_validate_json(await request.body())
        except ValidationError as error:
            return error_reply(f"{error.error_count()} errors in the body", REFUSED)
        try:
            await after_fork.refresh(wanted)
        except (OSError, after_fork.RefreshRefusedError) as error:
            return error_reply(f"the clock and entropy were not refreshed: {error}")
        self._boot_id = wanted.boot_id
        return JSONResponse(self._about())

    async def call(self, request: Request) -> Response:
        """Carry out calls in order."""
        try:
            calls = CallsRequest.model_validate_json(await request.body()).calls
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            return error_reply(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}", REFUSED)
        try:
            await asyncio.get_running_loop().run_in_executor(
                self._parts.executor_thread, self._parts.executor.run, calls
            )
        except CallRefusedError as error:
            return error_reply(str(error), REFUSED)
        return JSONResponse({"status": "success", "calls": len(calls)})

    async def screenshot(self, _request: Request) -> Response:
        """Return the screen as PNG, with the cursor."""
        image = await self._on_screen(lambda: encode_png(self._parts.screen.grab()))
        return Response(image, media_type="image/png")

    async def windows(self, _request: Request) -> Response:
        """Return the windows, and the title of the focused one."""
        parts = self._parts
        look = await asyncio.get_running_loop().run_in_executor(parts.watcher_thread, parts.watcher.look)
        return JSONResponse({"windows": look.windows, "focused": look.focused})

    async def screen_size(self, _request: Request) -> Response:
        """Return the size of the screen in pixels."""
        return JSONResponse({"width": self._parts.screen.width_px, "height": self._parts.screen.height_px})

    async def accessibility(self, _request: Request) -> Response:
        """Return the accessibility tree."""
        try:
            tree = await _read_tree()
        except (CommandTimeoutError, OSError) as error:
            return error_reply(str(error))
        if tree is None:
            return error_reply("the accessibility bus does not answer")
        return JSONResponse({"AT": tree})

    async def terminal(self, _request: Request) -> Response:
        """Return what the active terminal shows, null where there is none."""
        try:
            has_terminal = any(window.window_class == TERMINAL_CLASS for window in await list_windows())
            output = (await _read_tree("--terminal") or None) if has_terminal else None
        except (CommandTimeoutError, OSError) as error:
            return error_reply(str(error))
        return JSONResponse({"output": output, "status": "success"})

    async def platform(self, _request: Request) -> Response:
        """Return the name of the operating system, as Python has it."""
        return PlainTextResponse("Linux")

    def routes(self) -> list[Route]:
        """Return the endpoints."""
        return [
            Route("/agent", self.about),
            Route("/agent/proof", self.prove),
            Route("/agent/after_fork", self.after_fork, methods=["POST"]),
            Route("/agent/calls", self.call, methods=["POST"]),
            Route("/agent/windows", self.windows),
            Route("/screenshot", self.screenshot),
            Route("/screen_size", self.screen_size, methods=["POST"]),
            Route("/accessibility", self.accessibility),
            Route("/terminal", self.terminal),
            Route("/platform", self.platform),
        ]


async def _read_tree(*options: str) -> str | None:
    """Return what the accessibility reader writes, None where it failed."""
    argv = [str(layout.ROOT / "bin" / "python"), "-m", "osworld_guest.accessibility", *options]
    completed = await run_command(argv, TREE_DEADLINE_S)
    if completed.returncode != 0:
        logger.error("accessibility reader ended with %d: %s", completed.returncode, completed.error[-2000:])
        return None
    return completed.output
