"""The pool's health: what the env servers say of themselves, asked at once, kept for a moment."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel, ValidationError

from osworld_contract.registry import RegistryEntry
from osworld_contract.wire import HealthReply
from osworld_router.metrics import Metrics
from osworld_router.snapshots import LiveRegistry
from osworld_router.upstream import Upstream

ASK_TIMEOUT_S: Final = 1.0
"""A guess: an env server answers from memory."""

KEEP_S: Final = 1.0
"""How long an answer is kept, so that many who ask cost the pool one question."""

ASKED_AT_ONCE: Final = 64
"""Most env servers that are asked at the same time, so that a pool of 1,000 does not need 1,000 connections."""

UNKNOWN_PROVIDER: Final = "unknown"


class PoolNumbers(BaseModel):
    """``pool`` in the router's ``/health``."""

    name: str
    total: int
    ready: int
    """Envs whose server answers and is well."""
    degraded: int
    """Envs whose server answers and is not well."""
    down: int
    """Envs whose server does not answer."""
    initialized: int
    """Envs whose desktop has come up."""


class PoolHealth(HealthReply):
    """Reply of the router's ``GET /health``: v1's fields, and the pool's numbers."""

    pool: PoolNumbers


class HealthBoard:
    """Answers ``/health`` and keeps the metric of envs by state."""

    def __init__(self, registry: LiveRegistry, upstream: Upstream, metrics: Metrics) -> None:
        self._registry = registry
        self._upstream = upstream
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._slots = asyncio.Semaphore(ASKED_AT_ONCE)
        self._kept: PoolHealth | None = None
        self._kept_until = 0.0

    async def read(self) -> PoolHealth:
        """Return the pool's health, at most `KEEP_S` old."""
        async with self._lock:
            if self._kept is None or time.monotonic() >= self._kept_until:
                self._kept = await self._ask_all()
                self._kept_until = time.monotonic() + KEEP_S
            return self._kept

    async def _ask_all(self) -> PoolHealth:
        snapshot = self._registry.snapshot
        entries = [entry for _, entry in sorted(snapshot.envs.items())]
        answers = await asyncio.gather(*(self._ask(entry) for entry in entries))
        health = summarize(snapshot.pool, answers)
        numbers = health.pool
        self._metrics.envs_counted(
            {"ready": numbers.ready, "degraded": numbers.degraded, "down": numbers.down},
        )
        return health

    async def _ask(self, entry: RegistryEntry) -> HealthReply | None:
        async with self._slots:
            answer = await self._upstream.read(entry, "/health", ASK_TIMEOUT_S)
        try:
            return HealthReply.model_validate_json(answer) if answer is not None else None
        except ValidationError:
            return None


def summarize(pool: str, answers: Sequence[HealthReply | None]) -> PoolHealth:
    """Return the health of a pool whose env servers, by env_idx, gave `answers`; None stands for no answer.

    The v1 fields are those of the first env that answers; KVM counts as available where all that answer have it.
    """
    there = [answer for answer in answers if answer is not None]
    ready = sum(answer.status == "ok" for answer in there)
    initialized = sum(answer.env_status == "initialized" for answer in there)
    return PoolHealth(
        status="ok" if answers and ready == len(answers) else "degraded",
        provider=there[0].provider if there else UNKNOWN_PROVIDER,
        kvm_available=bool(there) and all(answer.kvm_available for answer in there),
        kvm_device=there[0].kvm_device if there else None,
        env_status="initialized" if initialized else "not_initialized",
        pool=PoolNumbers(
            name=pool,
            total=len(answers),
            ready=ready,
            degraded=len(there) - ready,
            down=len(answers) - len(there),
            initialized=initialized,
        ),
    )
