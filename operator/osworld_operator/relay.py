"""Takes routers' wishes to the operator that leads: the Service leads to standbys as well.

They are passed on rather than answered with the leader's address: a router need not know that there are several.
"""

import logging
from http import HTTPStatus
from typing import Final

import aiohttp
from aiohttp import web

from osworld_operator.lease import Lease
from osworld_operator.moves import ANSWER_S, MoveDoor

logger = logging.getLogger(__name__)

RELAYED: Final = "/relayed"
"""Before the path of a wish that a standby passed on. It is not passed on again: two could send it in a circle."""


class Relay:
    """The door of the leader, or the way to it."""

    def __init__(self, lease: Lease, door: MoveDoor) -> None:
        self._lease = lease
        self._door = door

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a router's wish, here or by the leader."""
        if self._lease.is_held:
            return await self._door.handle(request)
        if not self._lease.leader_url:
            return self._refusal()
        return await self._pass_on(request, self._lease.leader_url + RELAYED + request.path)

    async def handle_relayed(self, request: web.Request) -> web.Response:
        """Answer a wish that a standby passed on."""
        return await self._door.handle(request) if self._lease.is_held else self._refusal()

    async def _pass_on(self, request: web.Request, url: str) -> web.Response:
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(url, data=await request.read(), headers=headers, allow_redirects=False) as reply,
            ):
                return web.Response(status=reply.status, body=await reply.read(), content_type=reply.content_type)
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            logger.warning("a wish was not passed on to %s: %s", url, error or type(error).__name__)
            return _detail(f"the operator that leads did not answer: {error or type(error).__name__}")

    def _refusal(self) -> web.Response:
        return _detail(f"this operator does not lead: {self._lease.status}")


def _detail(words: str) -> web.Response:
    return web.json_response({"detail": words}, status=HTTPStatus.BAD_GATEWAY)
