"""Keeps one program running: starts it, waits until it is ready, starts it again when it ends, gives up in the end."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import httpx

from osworld_env.child import Child, exit_words
from osworld_env.errors import ProgramError

_logger = logging.getLogger(__name__)

READY_POLL_S: Final = 0.1
"""Between two looks at a program that is starting; it has no other way to say that it is ready."""

READY_PROBE_TIMEOUT_S: Final = 2.0

BACKOFF_MAX_S: Final = 30.0

STEADY_S: Final = 10.0
"""A program that lived this long after it was ready is sound: its restarts are forgotten. A guess: what cannot run ends
in its first seconds, and a pool is not to be given up because somebody killed its router six times in five minutes."""


@dataclass(frozen=True)
class Launch:
    """How a program is started once: another launch may have another port."""

    argv: tuple[str, ...]
    variables: Mapping[str, str]
    ready_url: str
    """Answers 200 when the program is ready."""
    port: int
    fds: tuple[int, ...] = ()
    """Open files that it inherits under their numbers."""


class KeeperState(StrEnum):
    """Where a kept program is in its life."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    GIVEN_UP = "given up"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Limits:
    """How long a kept program may take, and how often it is started again."""

    start_s: float = 180.0
    """From started to ready. A guess with room for a slow machine."""
    stop_s: float = 30.0
    """From SIGTERM to ended: an env server lets its step finish, a router its calls (25 s)."""
    restarts_max: int = 6
    """Restarts in a row before it is given up: with the pauses between them, half a minute. A guess."""
    backoff_first_s: float = 0.5
    """Pause before the first restart; each further one is twice as long, up to `BACKOFF_MAX_S`."""

    def backoff_s(self, restarts: int) -> float:
        """Return the pause before restart number `restarts` (from 1) in a row."""
        return float(min(BACKOFF_MAX_S, self.backoff_first_s * 2 ** (restarts - 1)))


class Keeper:
    """One kept program. `start`, then `watch` as a task of the owner, then `stop`."""

    def __init__(
        self,
        name: str,
        launch: Callable[[], Launch],
        on_ready: Callable[[Child], None],
        log_path: Path,
        limits: Limits,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare to keep what `launch` describes; it is asked anew for every start.

        `on_ready` is told when the program is ready, `on_end` when it has ended by itself.
        """
        self.name = name
        self.state = KeeperState.STARTING
        self.child: Child | None = None
        self.port: int | None = None
        self._launch = launch
        self._on_ready = on_ready
        self._log_path = log_path
        self._limits = limits
        self._on_end = on_end
        self._ready_at = 0.0

    async def start(self) -> None:
        """Start the program and wait until it is ready.

        Raises:
            ProgramError: It ended, or was not ready by the deadline and is stopped; carries its last log lines.
        """
        launch = self._launch()
        self.port = launch.port
        self.child = await Child.start(self.name, launch.argv, launch.variables, self._log_path, launch.fds)
        try:
            await self._until_ready(self.child, launch.ready_url)
        except BaseException:
            await self.child.stop(self._limits.stop_s)
            raise
        self._ready_at = time.monotonic()
        self.state = KeeperState.READY
        self._on_ready(self.child)

    async def watch(self) -> None:
        """Start the program again whenever it ends, until its restarts in a row are used up."""
        restarts = 0
        while self.child is not None:
            returncode = await self.child.wait()
            self._on_end()
            await self.child.kill()  # what is left of its process group, when the program was killed
            lived_s = time.monotonic() - self._ready_at
            _logger.warning("%s %s after %.0f s", self.name, exit_words(returncode), lived_s)
            restarts = 0 if self.state is KeeperState.READY and lived_s >= STEADY_S else restarts
            self.state = KeeperState.RESTARTING
            while self.state is KeeperState.RESTARTING:
                restarts += 1
                if restarts > self._limits.restarts_max:
                    self.state = KeeperState.GIVEN_UP
                    _logger.error(
                        "%s is given up after %d restarts; its log: %s", self.name, restarts - 1, self._log_path
                    )
                    return
                await asyncio.sleep(self._limits.backoff_s(restarts))
                try:
                    await self.start()
                except ProgramError as error:
                    _logger.warning("%s", error)

    async def stop(self) -> None:
        """End the program. Can run twice."""
        self.state = KeeperState.STOPPED
        if self.child is not None:
            await self.child.stop(self._limits.stop_s)

    def kill(self) -> None:
        """Send SIGKILL to the program's group, without waiting."""
        if self.child is not None and self.child.returncode is None:
            self.child.send_kill()

    async def _until_ready(self, child: Child, ready_url: str) -> None:
        last_seen = "it does not listen yet"
        timeout = httpx.Timeout(READY_PROBE_TIMEOUT_S)
        async with httpx.AsyncClient(timeout=timeout, trust_env=False) as http:
            try:
                async with asyncio.timeout(self._limits.start_s):
                    while child.returncode is None:
                        try:
                            reply = await http.get(ready_url)
                        except httpx.HTTPError as error:
                            last_seen = str(error) or type(error).__name__
                        else:
                            if reply.is_success:
                                return
                            last_seen = f"HTTP {reply.status_code}: {reply.text[:300]}"
                        await asyncio.sleep(READY_POLL_S)
            except TimeoutError:
                raise ProgramError(
                    f"{self.name} was not ready after {self._limits.start_s:g} s (last seen: {last_seen})",
                    child.log_tail(),
                ) from None
        raise ProgramError(f"{self.name} {exit_words(child.returncode)} before it was ready", child.log_tail())
