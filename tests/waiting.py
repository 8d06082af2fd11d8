"""Waiting for a condition: the only way in which tests let time pass."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import httpx
import psutil

T = TypeVar("T")

NOT_YET: Final = (OSError, AssertionError, httpx.TransportError, psutil.NoSuchProcess)
"""What a look may raise while what is awaited is not there yet."""

TICK_S = 0.05


def wait_until(predicate: Callable[[], T], deadline_s: float, what: str) -> T:
    """Return the first true value of `predicate`.

    Raises:
        AssertionError: None came within `deadline_s`; says what was awaited and what was seen last.
    """
    end = time.monotonic() + deadline_s
    while True:
        seen: object
        try:
            if value := predicate():
                return value
            seen = value
        except NOT_YET as error:
            seen = error
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline_s} s; last seen: {seen!r}")
        time.sleep(TICK_S)


async def wait_for(predicate: Callable[[], Any], deadline_s: float, what: str) -> Any:
    """Return the first true value of `predicate`, which may be a coroutine function. Raises as `wait_until` does."""
    end = time.monotonic() + deadline_s
    while True:
        seen: object
        try:
            value = predicate()
            if isinstance(value, Awaitable):
                value = await value
            if value:
                return value
            seen = value
        except NOT_YET as error:
            seen = error
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline_s} s; last seen: {seen!r}")
        await asyncio.sleep(TICK_S)
