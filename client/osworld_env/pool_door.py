"""Where the router of a local pool asks for a move: ``POST /envs/{env_idx}/move`` with ``{"from_uid", "epoch"}``.

The pool is the one writer of its registry; a router that finds an env server frozen or too slow asks here and reads the
registry again. Listens on loopback and asks for the pool's own token: desktops of this machine must not move envs.
"""

import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from pydantic import ValidationError

from osworld_contract.registry import MoveRequest, RegistryEntry
from osworld_env.pool_plan import ENV_HOST

BODY_BYTES_MAX: Final = 4096


Mover = Callable[[int, MoveRequest], RegistryEntry | None]
"""Moves an env_idx; returns who has it then, which is somebody else where it has moved already; None: no spare."""


@asynccontextmanager
async def open_door(port: int, token: str, move: Mover) -> AsyncIterator[None]:
    """Listen on `port` of loopback while the context is open."""

    async def handle(request: web.Request) -> web.Response:
        shown = request.headers.get("Authorization", "")
        if not hmac.compare_digest(shown.encode(), f"Bearer {token}".encode()):
            return web.json_response({"detail": "the token is missing or wrong"}, status=401)
        try:
            wanted = MoveRequest.model_validate_json(await request.read())
        except ValidationError as error:
            return web.json_response({"detail": str(error)}, status=422)
        entry = move(int(request.match_info["env_idx"]), wanted)
        if entry is None:
            return web.json_response({"detail": "there is no spare"}, status=503)
        return web.json_response(entry.model_dump())

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_post(r"/envs/{env_idx:\d{1,6}}/move", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, ENV_HOST, port).start()
        yield
    finally:
        await runner.cleanup()
