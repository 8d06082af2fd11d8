"""The registry as the router uses it, whatever it comes from: the state now, and a way to wait for another one."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping

from osworld_contract.registry import RegistryEntry
from osworld_router.resolve import Snapshot


class LiveRegistry(ABC):
    """Which env server has which env_idx, kept up to date."""

    def __init__(self) -> None:
        self.routers_left: dict[str, float] = {}
        """When those were last seen that are not among `routers` any more, by URL, on the monotonic clock."""
        self._wanted = 0
        """How many envs the pool is to have, as far as that was told."""
        self._snapshot = Snapshot()
        self._changed = asyncio.Event()

    @property
    @abstractmethod
    def routers(self) -> Collection[str]:
        """Return the URLs of the pool's routers, this one among them or not."""

    @property
    def snapshot(self) -> Snapshot:
        """The registry now."""
        return self._snapshot

    @abstractmethod
    async def refresh(self) -> None:
        """Look now, where looking is cheap."""

    @abstractmethod
    async def learn(self, entry: RegistryEntry) -> None:
        """Take over what the one writer has just said, before the source shows it."""

    @abstractmethod
    async def count(self) -> None:
        """Ask how many envs the pool is to have, where that is told apart from who has them."""

    @abstractmethod
    async def watch(self) -> None:
        """Follow the source until cancelled."""

    async def wait_for(self, is_met: Callable[[Snapshot], bool], timeout_s: float) -> Snapshot:
        """Return the first snapshot that `is_met`, or the last one seen after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not is_met(self._snapshot):
                    await self._changed.wait()
        except TimeoutError:
            pass
        return self._snapshot

    def _publish(self, pool: str, envs: Mapping[int, RegistryEntry]) -> None:
        known_envs = max(self._snapshot.known_envs, *(idx + 1 for idx in envs), self._wanted)
        self._snapshot = Snapshot(pool, envs, known_envs, is_loaded=True)
        self._changed.set()
        self._changed = asyncio.Event()
