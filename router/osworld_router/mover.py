"""Asks the one writer of the registry to give an env_idx to a spare."""

import logging
from http import HTTPStatus
from typing import Final

from osworld_contract.registry import MoveRequest, RegistryEntry
from osworld_router.metrics import Metrics
from osworld_router.snapshots import LiveRegistry
from osworld_router.upstream import Upstream

logger = logging.getLogger(__name__)

ASK_S: Final = 3.0
"""A guess: the writer answers from memory. Without an answer the call goes on where it was."""


RESULTS: Final[dict[int | None, str]] = {HTTPStatus.OK: "moved", HTTPStatus.SERVICE_UNAVAILABLE: "no_spare"}
"""What the writer's statuses are counted as."""


class Mover:
    """Asks for moves at `url`; without one there is nobody to ask."""

    def __init__(self, url: str | None, upstream: Upstream, registry: LiveRegistry, metrics: Metrics) -> None:
        self._url = url
        self._upstream = upstream
        self._registry = registry
        self._metrics = metrics

    @property
    def is_there(self) -> bool:
        """Whether there is somebody to ask."""
        return self._url is not None

    async def move(self, entry: RegistryEntry) -> None:
        """Have the env_idx of `entry` taken from its env server, and take over the registry as it is then."""
        if self._url is None:
            return
        writer = entry.model_copy(update={"url": self._url})
        body = MoveRequest(from_uid=entry.uid, epoch=entry.epoch).model_dump_json().encode()
        status = await self._upstream.post(writer, f"/envs/{entry.env_idx}/move", [], ASK_S, body)
        result = RESULTS.get(status, "failed")
        self._metrics.hedged(result)
        logger.info("hedge env_idx=%d uid=%s epoch=%d: %s", entry.env_idx, entry.uid, entry.epoch, result)
        await self._registry.refresh()
