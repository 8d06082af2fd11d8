"""Journals that clients keep of their episodes: for one that was lost with its env server and the router that knew it.

A node that loses its power takes both along, and whoever is asked next knows nothing. The client does, and tells it
before it makes the lost call again. The env server that has the env_idx is asked first: a client does not know of a
call that was carried out and not answered.
"""

import asyncio
import logging
import time
from http import HTTPStatus
from typing import Final

from osworld_contract.faults import FaultReason, fault_error
from osworld_contract.replay import EPISODE_BYTES, JournalTaken
from osworld_router.asgi import Receive
from osworld_router.body import BodyLimits, RequestBody
from osworld_router.errors import ClientGone
from osworld_router.exchange import CallLimits
from osworld_router.journal import Journals
from osworld_router.rebuild import Rebuild, journal_told
from osworld_router.reply import Reply
from osworld_router.resolve import Operation, Request, Route

logger = logging.getLogger(__name__)

NOBODY: Final = ""
"""Uid of the env server that has the episode, where none does: any that has the env_idx is another one."""


class Recall:
    """Takes them."""

    def __init__(self, rebuild: Rebuild, journals: Journals, limits: CallLimits) -> None:
        self._rebuild = rebuild
        self._journals = journals
        self._limits = BodyLimits(min(limits.body.size_bytes, EPISODE_BYTES), limits.body.idle_s)
        self._read_s = limits.deadlines_s[Operation.JOURNAL]

    async def handle(self, request: Request, route: Route, receive: Receive, reply: Reply) -> None:
        """Answer `request`, a POST of an `EpisodeJournal`.

        Raises:
            FaultError: ``client/bad_request``, ``body_too_large`` or ``no_episode``; see `take`.
        """
        try:
            async with asyncio.timeout(self._read_s):
                text = await _read(RequestBody(request, receive, self._limits))
        except TimeoutError as error:
            raise fault_error(FaultReason.BAD_REQUEST, f"the body did not arrive within {self._read_s:g} s") from error
        except ClientGone:
            return
        taken = JournalTaken(steps=await self.take(route.env_idx, text))
        await reply.whole(HTTPStatus.OK, taken.model_dump_json().encode())

    async def take(self, env_idx: int, text: bytes) -> int:
        """Keep the journal in `text` if it says more than is known, and return the steps that are known then.

        Raises:
            FaultError: ``client/bad_request``: it is no journal. ``no_episode``: as `env_idx` another episode runs.
                ``body_too_large``: this router keeps none of that size.
        """
        try:
            told = await asyncio.to_thread(journal_told, text, NOBODY, time.monotonic())
        except ValueError as error:
            raise fault_error(FaultReason.BAD_REQUEST, f"the body is no journal of an episode: {error}") from error
        await self._rebuild.look_up(env_idx)
        own = self._journals.get(env_idx)
        if own is not None and own.calls[0].key != told.calls[0].key:
            raise fault_error(FaultReason.NO_EPISODE, f"as env {env_idx} another episode has begun since")
        if own is None or len(own.calls) < len(told.calls):
            self._journals.take_over(env_idx, told)
            own = self._journals.get(env_idx)
        if own is None:
            raise fault_error(FaultReason.BODY_TOO_LARGE, "this router keeps no journal of that size")
        own.may_be_evaluated |= told.may_be_evaluated
        steps = len(own.calls) - 1
        logger.info("env %d: its client told of its episode, %d steps are known", env_idx, steps)
        return steps


async def _read(body: RequestBody) -> bytes:
    await body.prefetch()
    data = body.data()
    return data if isinstance(data, bytes) else b"".join([chunk async for chunk in data])
