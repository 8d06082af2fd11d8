"""Asks the one writer to give an env_idx to a spare: `osworld-env up` on one machine, the operator in a cluster."""

import asyncio
import logging
from http import HTTPStatus
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from osworld_contract.registry import MoveRequest, RegistryEntry
from osworld_router.metrics import Metrics
from osworld_router.snapshots import LiveRegistry
from osworld_router.upstream import Call, Upstream

logger = logging.getLogger(__name__)

ASK_S: Final = 5.0
"""A guess: the operator makes some five calls to the API server first. Without an answer the call goes on where it
was."""

RESULTS: Final[dict[int | None, str]] = {HTTPStatus.OK: "moved", HTTPStatus.SERVICE_UNAVAILABLE: "no_spare"}
"""What the writer's statuses are counted as."""


class Mover:
    """Asks for moves at `url`; without one there is nobody to ask."""

    def __init__(
        self, url: str | None, token_file: Path | None, upstream: Upstream, registry: LiveRegistry, metrics: Metrics
    ) -> None:
        self._url = url.rstrip("/") if url else None
        self._token_file = token_file
        self._upstream = upstream
        self._registry = registry
        self._metrics = metrics

    @property
    def is_there(self) -> bool:
        """Whether there is somebody to ask."""
        return self._url is not None

    async def move(self, entry: RegistryEntry, why: Literal["hedge", "recovery"] = "hedge") -> None:
        """Have the env_idx of `entry` taken from its env server, and take over who has it then."""
        if self._url is None:
            return
        status, now = await self._ask(entry.model_copy(update={"url": self._url}))
        result = RESULTS.get(status, "failed")
        if why == "hedge":
            self._metrics.hedged(result)
        logger.info(
            "move for a %s: env_idx=%d uid=%s epoch=%d: %s%s",
            why,
            entry.env_idx,
            entry.uid,
            entry.epoch,
            result,
            f", status {status}" if result == "failed" else "",
        )
        if now is not None:
            await self._registry.learn(now)

    async def _ask(self, entry: RegistryEntry) -> tuple[int | None, RegistryEntry | None]:
        """Return the writer's status, None without an answer, and who has the env_idx, None where it does not say."""
        try:
            token = await asyncio.to_thread(self._token_file.read_text) if self._token_file else None
        except (OSError, UnicodeDecodeError) as error:
            logger.warning("OSWORLD_ROUTER_MOVE_TOKEN_FILE cannot be read: %s", error)
            return None, None
        body = MoveRequest(from_uid=entry.uid, epoch=entry.epoch).model_dump_json().encode()
        call = Call(
            "POST",
            f"/envs/{entry.env_idx}/move",
            [("Content-Type", "application/json")],
            body=body,
            token=token.strip() if token else None,
        )
        reply = await self._upstream.exchange(entry, call, ASK_S)
        if reply is None:
            return None, None
        status, text = reply
        try:
            return status, RegistryEntry.model_validate_json(text) if status == HTTPStatus.OK else None
        except ValidationError:
            return None, None
