"""Journals of episodes that this router has not seen from their reset on: those that it finds when it starts, and one
that another router went on with meanwhile. The env server that plays an episode knows all of it.
"""

import asyncio
import logging
import time
import zlib
from contextlib import aclosing
from http import HTTPStatus
from typing import Final

from pydantic import BaseModel, ValidationError

from osworld_contract.registry import RegistryEntry
from osworld_contract.replay import EPISODE_BYTES, JOURNAL_PATH, EpisodeJournal, Mark, Sight
from osworld_router.errors import TransferBroken, UpstreamError
from osworld_router.exchange import Exchange
from osworld_router.headers import addressee
from osworld_router.journal import Journal, Passed
from osworld_router.resolve import Operation, Route
from osworld_router.scribe import COMPRESSION_LEVEL, Scribe
from osworld_router.snapshots import LiveRegistry
from osworld_router.upstream import Call, Upstream

logger = logging.getLogger(__name__)

ASK_S: Final = 60.0
"""How long an env server may take to say what it plays: it waits for the end of a replay whose router died. A guess."""

WAIT_S: Final = 2.0
"""How long a call waits for that. A guess: 24 MB take some 0.2 s, and a frozen env server must not hold it up long."""

ASKED_AT_ONCE: Final = 8
"""Env servers that are asked at the same time when the router starts: each answer may have `EPISODE_BYTES`."""

REGISTRY_S: Final = 60.0
"""How long a router that starts waits for a first registry. A guess; a call asks for its own episode anyway."""


class Rebuild:
    """Asks env servers for journals."""

    def __init__(self, registry: LiveRegistry, upstream: Upstream, scribe: Scribe) -> None:
        self._registry = registry
        self._upstream = upstream
        self._scribe = scribe
        self._journals = scribe.journals
        self._asking: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Ask for all that is played as this router starts."""
        snapshot = await self._registry.wait_for(lambda now: now.is_loaded, REGISTRY_S)
        gate = asyncio.Semaphore(ASKED_AT_ONCE)

        async def ask(env_idx: int) -> None:
            async with gate:
                if not self._journals.is_known(env_idx):
                    await asyncio.wait([self._task(env_idx)])

        async with asyncio.TaskGroup() as asking:
            for env_idx in snapshot.envs:
                asking.create_task(ask(env_idx))

    async def rebuilt(self, exchange: Exchange) -> None:
        """Return when all is known of the episode of `exchange`, or that cannot be had soon."""
        self._scribe.compare(exchange)
        route = exchange.route
        if not self._journals.is_known(route.env_idx) and route.env_idx in self._registry.snapshot.envs:
            await self.look_up(route.env_idx)

    async def look_up(self, env_idx: int) -> None:
        """Return when the env server of `env_idx` has said what it plays, or that cannot be had soon."""
        await asyncio.wait([self._task(env_idx)], timeout=WAIT_S)

    def _task(self, env_idx: int) -> asyncio.Task[None]:
        if env_idx not in self._asking:
            task = self._asking[env_idx] = asyncio.create_task(self._ask(env_idx))
            task.add_done_callback(lambda _: self._asking.pop(env_idx))
        return self._asking[env_idx]

    async def _ask(self, env_idx: int) -> None:
        entry = self._registry.snapshot.envs.get(env_idx)
        if entry is None:
            return
        changes, asked = self._journals.changes(env_idx), time.monotonic()
        try:
            async with asyncio.timeout(ASK_S):
                text = await self._read(entry)
            journal = await asyncio.to_thread(journal_told, text, entry.uid, asked) if text else None
        except (UpstreamError, TransferBroken, TimeoutError, ValidationError) as error:
            logger.warning(
                "env %d: %s did not say what it plays: %s", env_idx, entry.uid, error or type(error).__name__
            )
            return
        if self._journals.changes(env_idx) != changes:
            return  # a call came meanwhile, and its reply may be missing
        own = self._journals.get(env_idx)
        if own is None or (journal is not None and journal.answered > own.answered):
            self._journals.take_over(env_idx, journal)
            if journal is not None:
                logger.info("env %d: its episode is known again, %d steps", env_idx, len(journal.calls) - 1)

    async def _read(self, entry: RegistryEntry) -> bytes | None:
        """Return what the env server says, None where it has no episode that may be played again."""
        headers = addressee(Route(Operation.PAGE, entry.env_idx, JOURNAL_PATH), entry)
        async with self._upstream.send(entry, Call("GET", JOURNAL_PATH, headers)) as reply:
            if reply.status != HTTPStatus.OK:
                return None
            text = bytearray()
            async with aclosing(reply.chunks()) as chunks:
                async for chunk in chunks:
                    text += chunk
                    if len(text) > EPISODE_BYTES:
                        return None
            return bytes(text)


def journal_told(text: bytes, uid: str, asked: float) -> Journal:
    """Return the journal in `text`, an `EpisodeJournal` that came to a question of `asked`, on the monotonic clock.

    Raises:
        ValueError: It is none.
    """
    said = EpisodeJournal.model_validate_json(text)
    begun = said.episode
    parts: list[tuple[BaseModel, str | None, Sight, float]] = [(begun.call, begun.key, begun.seen, 0.0)]
    parts += [(step.call, step.key, step.seen, step.pause_s) for step in begun.steps]
    calls = [
        Passed(
            mark=Mark(said.episode_id, number, said.can_evaluate_again, seen.windows, said.stands_still),
            request=zlib.compress(call.model_dump_json().encode(), COMPRESSION_LEVEL),
            key=key,
            screen_b64=seen.screen_b64.encode() if seen.screen_b64 is not None else None,
            pause_s=0.0 if said.stands_still else pause_s,
            took_s=took_s,
        )
        for number, ((call, key, seen, pause_s), took_s) in enumerate(zip(parts, said.took_s, strict=True))
    ]
    return Journal(uid, calls, begun.is_delivered, said.may_be_evaluated, asked - said.idle_s, whole_at=asked)
