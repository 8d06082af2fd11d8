"""Other routers of the pool: what one of them may have told a client later than this one.

Where a balancer sends one client's calls to several routers, an episode goes on past what a router knows: its journal
is not whole, and its env server, once lost, can no longer say so; or a reset failed elsewhere, and the score would be
that of the episode before. What a router told is gone with it: one that is silent, that started or left since counts as
one that has. A client that tells which reply it has seen last (`HEADER_SEEN`) needs none of this.
"""

import asyncio
import math
import secrets
import time
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pydantic import BaseModel, ValidationError

from osworld_contract.faults import FaultReason, fault_error
from osworld_contract.registry import RegistryEntry
from osworld_contract.wire import Phase
from osworld_router.calls import Call
from osworld_router.exchange import Exchange
from osworld_router.scores import Scores
from osworld_router.scribe import Scribe
from osworld_router.snapshots import LiveRegistry
from osworld_router.upstream import Upstream

PEERS_PATH: Final = "/peers"

ASK_S: Final = 1.0
"""How long a router or env server may take to answer from memory. A guess; one that does not may know more."""

LEAVE_S: Final = 10.0
"""How long calls may still come to a router that is not ready any more. A guess: a node is told within a second, a
balancer outside the cluster may need some."""

UNANSWERED: Final = frozenset({Phase.DONE, Phase.EVALUATING})
"""Where an episode is over in its client's eyes, and has had no score: an evaluate can be about nothing else."""


class PeerReply(BaseModel):
    """Reply of ``GET /peers``."""

    router: str
    """Names the process that answers."""
    up_s: float
    """Seconds since it started: of what was before it knows nothing."""
    idle_s: dict[int, float]
    """Seconds since it told a client how a reset or step ended, or sent an evaluate, by env_idx."""
    failed: list[int]
    """Of these, where the last reset or step ended in a fault."""


class Elsewhere(Enum):
    """What other routers have told a client of an env since some moment."""

    NOTHING = "nothing"
    SOMETHING = "something"
    FAILURE = "failure"
    """That its reset or step failed."""
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class _Word:
    """A peer's reply, its times on this router's monotonic clock: as late as they can be."""

    reply: PeerReply
    came: float

    @property
    def started(self) -> float:
        return self.came - self.reply.up_s

    def told(self, env_idx: int) -> float:
        return self.came - self.reply.idle_s.get(env_idx, math.inf)


class Peers:
    """Asks the other routers, and answers them."""

    def __init__(
        self, registry: LiveRegistry, upstream: Upstream, scribe: Scribe, scores: Scores, token: str | None
    ) -> None:
        """`token` is what clients show, here and there."""
        self._registry = registry
        self._upstream = upstream
        self._scribe = scribe
        self._scores = scores
        self._token = token
        self._name = secrets.token_hex(8)
        self._started = time.monotonic()

    def answer(self) -> PeerReply:
        """Return what another router is told."""
        return PeerReply(
            router=self._name,
            up_s=time.monotonic() - self._started,
            idle_s=self._scribe.idle_s(),
            failed=sorted(self._scores.failed_envs),
        )

    async def since(self, env_idx: int, moment: float) -> Elsewhere:
        """Return what other routers have told of `env_idx` since `moment` on the monotonic clock."""
        replies = await asyncio.gather(*(self._ask(url) for url in self._registry.routers))
        words = [word for word in replies if word is None or word.reply.router != self._name]
        later = [word for word in words if word is not None and word.told(env_idx) > moment]
        if any(env_idx in word.reply.failed for word in later):
            return Elsewhere.FAILURE
        has_left = any(left + LEAVE_S > moment for left in self._registry.routers_left.values())
        if has_left or any(word is None or word.started > moment for word in words):
            return Elsewhere.UNKNOWN
        return Elsewhere.SOMETHING if later else Elsewhere.NOTHING

    async def check_score(self, exchange: Exchange) -> None:
        """Return if `exchange`, an evaluate, can be about the episode that its env server has; else mark it as unseen.

        Raises:
            FaultError: ``reply_lost``: a reset or step failed at another router, later than any here.
        """
        env_idx = exchange.route.env_idx
        elsewhere = await self.since(env_idx, self._scribe.told(env_idx))
        if elsewhere is Elsewhere.FAILURE:
            raise fault_error(
                FaultReason.REPLY_LOST, "the last reset or step failed at another router", operation="evaluate"
            )
        if elsewhere is Elsewhere.UNKNOWN:
            entry = self._registry.snapshot.envs.get(env_idx)
            state = await self._upstream.state(entry, ASK_S) if entry is not None else None
            exchange.is_unseen = state is None or state.phase not in UNANSWERED

    async def _ask(self, url: str) -> _Word | None:
        entry = RegistryEntry(env_idx=0, uid=url, epoch=1, url=url)
        reply = await self._upstream.exchange(entry, Call("GET", PEERS_PATH, [], token=self._token), ASK_S)
        try:
            return _Word(PeerReply.model_validate_json(reply[1]), time.monotonic()) if reply else None
        except ValidationError:
            return None
