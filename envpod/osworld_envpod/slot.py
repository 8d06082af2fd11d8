"""The slot for the one operation that an env server has under way: admission, deadline, timing."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_envpod.admission import Tenancy
from osworld_envpod.episode import Episode, Observation
from osworld_envpod.metrics import EnvMetrics

logger = logging.getLogger(__name__)

T = TypeVar("T")

NET_MARGIN_S = 5.0
"""An operation ends by its own deadline with a fault of its own; the slot's deadline is only a net under it."""

IsGone = Callable[[], Awaitable[bool]]
"""Says whether a caller hung up."""


async def never_gone() -> bool:
    """Say of a caller that it waits as long as it takes."""
    return False


@dataclass(frozen=True)
class Caller:
    """Who made a call."""

    is_gone: IsGone = never_gone
    acknowledges: bool = False
    """Whether it will say when the reply has arrived; see `delivery`."""
    tenancy: Tenancy | None = None
    """For whom a router calls."""


ANYBODY = Caller()
"""Somebody who waits as long as it takes, and has the reply when it is sent."""


@dataclass
class Operation:
    """The operation under way."""

    name: str
    key: str | None
    tenancy: Tenancy | None
    callers: list[IsGone]
    task: "asyncio.Task[Any]"

    async def joined(self, is_gone: IsGone = never_gone) -> Any:
        """Wait for the result as one more caller. A waiter that is cancelled does not end the operation."""
        self.callers.append(is_gone)
        return await asyncio.shield(self.task)

    def is_for(self, tenancy: Tenancy | None) -> bool:
        """Return whether it is made for `tenancy`, as far as is known."""
        return tenancy is None or tenancy == self.tenancy

    async def is_abandoned(self) -> bool:
        """Say whether every caller hung up: nobody will see the result."""
        for is_gone in self.callers:
            if not await is_gone():
                return False
        return True


class Slot:
    """Runs one operation at a time, each to its end even if its caller goes away."""

    def __init__(self, metrics: EnvMetrics, pool: str, provider: str) -> None:
        self._histograms = {
            "reset": metrics.reset_seconds,
            "step": metrics.step_seconds,
            "evaluate": metrics.evaluate_seconds,
        }
        self._labels = (pool, provider)
        self.operation: Operation | None = None
        self.last_end = time.monotonic()
        """When the last operation ended, on the monotonic clock."""

    def refuse_if_busy(self, name: str) -> None:
        """Raise ``client/busy`` while an operation is under way."""
        if self.operation is not None:
            raise fault_error(FaultReason.BUSY, f"a {self.operation.name} is under way", operation=name)

    def twin(self, name: str, key: str | None, caller: Caller) -> Operation | None:
        """Return the operation under way if it is this very call, sent twice."""
        running = self.operation
        if running is None or key is None or (running.name, running.key) != (name, key):
            return None
        return running if running.is_for(caller.tenancy) else None

    async def run(
        self,
        name: str,
        key: str | None,
        work: Coroutine[Any, Any, T],
        deadline_s: float,
        caller: Caller = ANYBODY,
    ) -> T:
        """Run `work` as the one operation, for `caller`.

        Raises:
            FaultError: ``client/busy``, ``infra/operation_timeout``, or what `work` raises.
        """
        try:
            self.refuse_if_busy(name)
        except FaultError:
            work.close()
            raise
        task = asyncio.create_task(self._timed(name, work, deadline_s))
        operation = Operation(name, key, caller.tenancy, [], task)
        self.operation = operation
        task.add_done_callback(self._ended)
        result: T = await operation.joined(caller.is_gone)
        return result

    async def answered(
        self, episode: Episode, work: Coroutine[Any, Any, Observation], key: str | None, caller: Caller
    ) -> Observation:
        """Do `work` of `episode` as the operation under way, and note whether anybody is there for its reply."""
        episode.delivery.begin()
        observation = await work
        if await self.is_abandoned():
            logger.warning("Episode %s: nobody waits for the reply any more", episode.id)
        else:
            episode.delivery.send(key if caller.acknowledges else None)
        return observation

    async def is_abandoned(self) -> bool:
        """Say whether nobody waits for the operation under way."""
        return self.operation is not None and await self.operation.is_abandoned()

    async def end(self, deadline_s: float) -> None:
        """Cancel the operation under way, if there is one, and wait for its end."""
        if self.operation is not None:
            task = self.operation.task
            if not task.cancelling():  # once: another one who waits must not break off how it cleans up
                task.cancel()
            await asyncio.wait([task], timeout=deadline_s)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self.operation = None
        self.last_end = time.monotonic()
        if not task.cancelled():
            task.exception()  # marks it as seen: the caller may be gone

    async def _timed(self, name: str, work: Coroutine[Any, Any, T], deadline_s: float) -> T:
        began = time.monotonic()
        result = "cancelled"
        try:
            async with asyncio.timeout(deadline_s):
                value = await work
            result = value.fault.kind if isinstance(value, Observation) and value.fault else "ok"
        except FaultError as error:
            result = error.fault.kind
            raise
        except TimeoutError as error:
            result = "timeout"
            message = f"{name} did not end within {deadline_s:g} s"
            raise fault_error(FaultReason.OPERATION_TIMEOUT, message, operation=name) from error
        else:
            return value
        finally:
            seconds = time.monotonic() - began
            if name in self._histograms:
                self._histograms[name].labels(*self._labels, result).observe(seconds)
            logger.info("%s ended: result=%s seconds=%.3f", name, result, seconds)


def call_key(key: str | None, number: int | None) -> str | None:
    """Return what a call is known by: the key that came with it, else the number of the step."""
    return key or (f"step-{number}" if number is not None else None)


async def answered_again(episode: Episode, observation: Observation, key: str | None, caller: Caller) -> Observation:
    """Answer a call of `episode` from record."""
    if observation is episode.last_observation and not await caller.is_gone():
        episode.delivery.send(key if caller.acknowledges else None)
    return observation
