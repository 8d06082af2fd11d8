"""Keeps the journals: notes each call whose reply the client has, and forgets what cannot be played again."""

import math
import time
import zlib
from http import HTTPStatus
from typing import Final

from osworld_contract.names import HEADER_IDEMPOTENCY_KEY, HEADER_SEEN, HEADER_STEP
from osworld_contract.replay import HEADER_SIGHT, Mark
from osworld_router.exchange import Exchange
from osworld_router.journal import Journal, Journals, Passed
from osworld_router.reply import RawHeaders
from osworld_router.resolve import Operation
from osworld_router.screens import last_image
from osworld_router.sinks import Pieces

COMPRESSION_LEVEL: Final = 1
"""Of zlib. Predictions and tasks are text of some kilobytes; a higher level gains little."""

SIGHT: Final = HEADER_SIGHT.lower().encode()


class Scribe:
    """Notes what passes."""

    def __init__(self, journals: Journals) -> None:
        self._journals = journals
        self._told: dict[int, float] = {}
        """When a client was last told how its reset or step ended, by env_idx, on the monotonic clock."""
        self._asked: dict[int, float] = {}
        """When an evaluate was last sent to an env server, likewise."""

    def journal(self, exchange: Exchange) -> Journal | None:
        """Return the journal of the episode that `exchange` belongs to."""
        return self._journals.get(exchange.route.env_idx)

    @property
    def journals(self) -> Journals:
        """Return all of them."""
        return self._journals

    def told(self, env_idx: int) -> float:
        """Return when a client was last told how its reset or step ended, on the monotonic clock."""
        return self._told.get(env_idx, -math.inf)

    def idle_s(self) -> dict[int, float]:
        """Return the seconds since a client was told how its reset or step ended, or an evaluate sent, by env_idx."""
        now = time.monotonic()
        return {
            env_idx: now - max(self.told(env_idx), self._asked.get(env_idx, -math.inf))
            for env_idx in self._told.keys() | self._asked.keys()
        }

    def compare(self, exchange: Exchange) -> None:
        """Forget an episode whose client has seen another last reply than the one that is noted."""
        seen, journal = exchange.request.values(HEADER_SEEN), self.journal(exchange)
        if journal is not None and seen and journal.calls[-1].key not in (seen[0], _key(exchange)):
            self._journals.doubt(exchange.route.env_idx)

    def passed(self, exchange: Exchange, status: int, headers: RawHeaders, body: Pieces) -> None:
        """Note that the client gets this whole reply of an env server."""
        operation, env_idx = exchange.route.operation, exchange.route.env_idx
        if operation is Operation.EVALUATE:
            self.sent(exchange)
            if status == HTTPStatus.OK:
                self._journals.drop(env_idx)  # it has its score, and another must not follow
        if operation not in (Operation.RESET, Operation.STEP):
            return
        self._told[env_idx] = time.monotonic()
        marks = (Mark.parse(value.decode("latin-1")) for name, value in headers if name == SIGHT)
        mark = next(marks, None) if status == HTTPStatus.OK else None
        request = exchange.body.data()
        if mark is None or not isinstance(request, bytes) or exchange.entry is None:
            self._journals.drop(env_idx)
            return
        journal, now = self._journals.get(env_idx), time.monotonic()
        call = Passed(
            mark=mark,
            request=zlib.compress(request, COMPRESSION_LEVEL),
            key=_key(exchange),
            screen_b64=last_image(body),  # where the episode is over, its reply shows none
            pause_s=journal.pause_s(exchange.arrived) if journal and mark.number else 0.0,
            took_s=now - max(exchange.arrived, exchange.recovered or 0.0),
        )
        if operation is Operation.RESET:
            self._journals.begin(env_idx, exchange.entry.uid, call)
        else:
            self._journals.go_on(env_idx, exchange.entry.uid, call)

    def sent(self, exchange: Exchange) -> None:
        """Note that an env server may have begun to carry `exchange` out."""
        if exchange.route.operation is not Operation.EVALUATE:
            return
        self._asked[exchange.route.env_idx] = time.monotonic()
        if journal := self.journal(exchange):
            journal.may_be_evaluated = True

    def forget(self, exchange: Exchange) -> None:
        """Note that the client has another idea of the episode: a call failed, or its reply did not arrive."""
        if exchange.route.operation in (Operation.RESET, Operation.STEP):
            self._told[exchange.route.env_idx] = time.monotonic()
            self._journals.drop(exchange.route.env_idx)


def _key(exchange: Exchange) -> str | None:
    """Return what the env server knows the call by; see `osworld_envpod.server.call_key`."""
    named = exchange.request.values(HEADER_IDEMPOTENCY_KEY) or [value for _, value in exchange.keys]
    if named:
        return named[0]
    numbers = exchange.request.values(HEADER_STEP)
    return f"step-{int(numbers[0])}" if numbers and numbers[0].isdigit() else None
