"""How episodes ended for their clients, where an env server may not know: it was killed, or its reply came too late.

Whichever env server takes the next reset of the env_idx is told, and writes it into the episode's record. In memory
only, the latest of each env_idx: it is gone with the router.
"""

import time
from http import HTTPStatus
from typing import Final

from osworld_contract.faults import Fault
from osworld_contract.names import HEADER_ENDED, HEADER_EPISODE
from osworld_contract.record import EPISODE_ID, RecordEnd
from osworld_router.exchange import Exchange
from osworld_router.reply import RawHeaders, ends_v1_episode
from osworld_router.resolve import Operation, Route
from osworld_router.scribe import Scribe
from osworld_router.upstream import Headers

EPISODE: Final = HEADER_EPISODE.lower().encode()


class Ends:
    """Remembers per env_idx which episode runs, and how one ended until that is told."""

    def __init__(self, scribe: Scribe) -> None:
        self._scribe = scribe
        self._episodes: dict[int, str] = {}
        self._ends: dict[int, RecordEnd] = {}

    def headers(self, route: Route) -> Headers:
        """Return what the env server of `route` is told with a reset."""
        end = self._ends.get(route.env_idx) if route.operation is Operation.RESET else None
        return [] if end is None else [(HEADER_ENDED, end.header)]

    def passed(self, exchange: Exchange, status: int, headers: RawHeaders) -> None:
        """Note that the client gets this reply of an env server."""
        operation, env_idx = exchange.route.operation, exchange.route.env_idx
        named = next((value.decode("latin-1") for name, value in headers if name == EPISODE), None)
        is_of_episode = operation is Operation.STEP and named is not None
        is_news = is_of_episode or operation in (Operation.RESET, Operation.EVALUATE)
        if status != HTTPStatus.OK or not is_news:
            return
        self._ends.pop(env_idx, None)  # the env server was told; or the episode went on, or has its score
        self._episodes.pop(env_idx, None)
        if named is not None:
            self._episodes[env_idx] = named

    def failed(self, exchange: Exchange, fault: Fault) -> None:
        """Note that the client got `fault` instead of a reply of an env server, or no reply."""
        operation, env_idx = exchange.route.operation, exchange.route.env_idx
        if operation is Operation.RESET:
            self._episodes.pop(env_idx, None)
        if operation not in (Operation.STEP, Operation.EVALUATE) or not ends_v1_episode(fault):
            return
        journal = self._scribe.journal(exchange)
        episode_id = journal.mark.episode_id if journal is not None else self._episodes.get(env_idx, "")
        if EPISODE_ID.fullmatch(episode_id):
            self._ends[env_idx] = RecordEnd(
                episode_id=episode_id,
                operation="step" if operation is Operation.STEP else "evaluate",
                at=time.time(),
                duration_s=max(0.0, time.monotonic() - exchange.arrived),
                fault=fault,
            )
        if operation is Operation.STEP:
            self._episodes.pop(env_idx, None)
