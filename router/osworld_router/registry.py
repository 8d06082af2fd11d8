"""The registry file, watched: always the last good state of it, and a way to wait for the next one."""

import asyncio
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from watchfiles import Change, awatch

from osworld_contract.registry import Registry, RegistryEntry, read_registry
from osworld_router.snapshots import LiveRegistry

logger = logging.getLogger(__name__)

SETTLE_MS: Final = 20
"""How long the folder must be quiet before it is read. The file is replaced in one step, so little is needed."""

REREAD_MS: Final = 2000
"""The file is read again after so long without an event: one may come before the watch stands, and a folder that is
replaced (a mounted ConfigMap) sends none to a watch of the old one."""


class RegistryFile(LiveRegistry):
    """The registry of a pool as `path` has it. A file that is missing or wrong leaves the last good state."""

    def __init__(self, path: Path, routers: Collection[str] = ()) -> None:
        super().__init__()
        self._path = path.absolute()
        self._routers = routers
        self._registry: Registry | None = None
        self._complaint = ""

    @property
    def routers(self) -> Collection[str]:
        """Return those that this one was told of."""
        return self._routers

    async def refresh(self) -> None:
        """Read the file now and take over what it says; log once why it cannot be taken over."""
        try:
            registry = await asyncio.to_thread(read_registry, self._path)
        except FileNotFoundError:
            self._complain("is not there yet" if self._registry is None else "is gone; its last state stays in use")
        except OSError as error:
            self._complain(f"cannot be read: {error.strerror}")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            self._complain(f"is not a registry; its last good state stays in use: {where} {first['msg']}")
        else:
            self._complaint = ""
            self._take_over(registry)

    async def learn(self, entry: RegistryEntry) -> None:
        """Read the file: the writer has replaced it before it said anything."""
        await self.refresh()

    async def count(self) -> None:
        """Nothing to ask: all of the pool's envs are in the file while a router runs.

        `osworld-env up` starts the router when every env_idx has an entry, and an env server that ends leaves its own
        there until it has a successor. So a router that starts while one is away takes it for down, not unknown.
        """

    async def watch(self) -> None:
        """Follow the file until cancelled."""
        changes = awatch(
            self._path.parent,
            watch_filter=self._is_about_the_file,
            step=SETTLE_MS,
            rust_timeout=REREAD_MS,
            yield_on_timeout=True,
            recursive=False,
        )
        async for _ in changes:
            await self.refresh()

    def _is_about_the_file(self, _change: Change, changed: str) -> bool:
        return Path(changed).name in (self._path.name, "..data")

    def _take_over(self, registry: Registry) -> None:
        if registry == self._registry:
            return
        self._registry = registry
        logger.info("registry: pool=%s envs=%d file=%s", registry.pool, len(registry.envs), self._path)
        self._publish(registry.pool, {entry.env_idx: entry for entry in registry.envs})

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            self._complaint = complaint
            logger.warning("registry: %s %s", self._path, complaint)
