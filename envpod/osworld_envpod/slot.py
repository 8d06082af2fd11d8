"""The slot for the one operation that an env server has under way: admission, deadline, timing."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_envpod.episode import Observation
from osworld_envpod.metrics import EnvMetrics

logger = logging.getLogger(__name__)

T = TypeVar("T")

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


ANYBODY = Caller()
"""Somebody who waits as long as it takes, and has the reply when it is sent."""


@dataclass
class Operation:
    """The operation under way."""

    name: str
    key: str | None
    callers: list[IsGone]
    task: "asyncio.Task[Any]"

    async def joined(self, is_gone: IsGone = never_gone) -> Any:
        """Wait for the result as one more caller. A waiter that is cancelled does not end the operation."""
        self.callers.append(is_gone)
        return await asyncio.shield(self.task)

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

    def twin(self, name: str, key: str | None) -> Operation | None:
        """Return the operation under way if it is this very call, sent twice."""
        running = self.operation
        is_twin = running is not None and running.name == name and key is not None and running.key == key
        return running if is_twin else None

    async def run(
        self,
        name: str,
        key: str | None,
        work: Coroutine[Any, Any, T],
        deadline_s: float,
        is_gone: IsGone = never_gone,
    ) -> T:
        """Run `work` as the one operation, for a caller of which `is_gone` tells.

        Raises:
            FaultError: ``client/busy``, ``infra/operation_timeout``, or what `work` raises.
        """
        try:
            self.refuse_if_busy(name)
        except FaultError:
            work.close()
            raise
        task = asyncio.create_task(self._timed(name, work, deadline_s))
        operation = Operation(name, key, [], task)
        self.operation = operation
        task.add_done_callback(self._ended)
        result: T = await operation.joined(is_gone)
        return result

    async def is_abandoned(self) -> bool:
        """Say whether nobody waits for the operation under way."""
        return self.operation is not None and await self.operation.is_abandoned()

    async def end(self, deadline_s: float) -> None:
        """Cancel the operation under way, if there is one, and wait for its end."""
        if self.operation is not None:
            self.operation.task.cancel()
            await asyncio.wait([self.operation.task], timeout=deadline_s)

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
