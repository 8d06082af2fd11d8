"""Whether the reply of an episode's last reset or step reached the one who asked. A score is for what was seen.

A caller that stays until its reply is sent has it, unless it is a router: that may die with the reply in its hands, and
says by an acknowledgement when its own client has taken the last byte.
"""

import asyncio
from enum import Enum


class _State(Enum):
    LOST = "lost"
    PENDING = "pending"
    MADE = "made"


class Delivery:
    """The fate of one reply after the other."""

    def __init__(self) -> None:
        self._state = _State.LOST
        self._key: str | None = None
        self._acknowledged = asyncio.Event()

    @property
    def is_made(self) -> bool:
        """Say whether the last reply arrived."""
        return self._state is _State.MADE

    @property
    def is_pending(self) -> bool:
        """Say whether the last reply was sent and is still to be acknowledged."""
        return self._state is _State.PENDING

    def begin(self) -> None:
        """Note that the next call is under way: nobody has its reply."""
        self._state, self._key = _State.LOST, None
        self._acknowledged.clear()

    def send(self, acknowledged_as: str | None) -> None:
        """Note that the reply goes to somebody who is there.

        Args:
            acknowledged_as: The key under which its arrival will be acknowledged, None where it will not.
        """
        if self._state is _State.MADE:
            return  # sent again, and it arrived before
        self._state = _State.MADE if acknowledged_as is None else _State.PENDING
        self._key = acknowledged_as

    def acknowledge(self, key: str) -> bool:
        """Note that the reply to the call of `key` arrived. Return whether that is the last one."""
        if key != self._key:
            return False
        self._state = _State.MADE
        self._acknowledged.set()
        return True

    def confirm(self) -> None:
        """Note that the client itself says that it has the last reply."""
        self._state = _State.MADE
        self._acknowledged.set()

    async def settled(self, timeout_s: float) -> None:
        """Wait for an acknowledgement that is due, for `timeout_s` at most."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._acknowledged.wait()
        except TimeoutError:
            pass
