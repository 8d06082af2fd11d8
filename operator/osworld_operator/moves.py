"""Where routers ask for moves: ``POST /pools/{namespace}/{pool}/envs/{env_idx}/move`` with a `MoveRequest`.

The answers are those of `osworld-env up`, so a router need not know whom it asks. A router shows the token of its own
service account, made for the operator alone, and is heard about its own pool alone. What becomes of a wish is decided
in the pool's next round, as everything is.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import Final

from aiohttp import web
from pydantic import ValidationError

from osworld_contract.kube_names import router_name, service_account_user
from osworld_contract.registry import MoveRequest
from osworld_operator.callers import Callers
from osworld_operator.errors import ClusterError
from osworld_operator.handlers import Keepers
from osworld_operator.keeper import PoolKeeper
from osworld_operator.metrics import OperatorMetrics
from osworld_operator.view import Wish

logger = logging.getLogger(__name__)

ANSWER_S: Final = 4.5
"""For an answer; the wish is withdrawn then. Below the 5 s that a router waits."""

PATH: Final = r"/pools/{namespace}/{pool}/envs/{env_idx:\d{1,6}}/move"


class MoveDoor:
    """Takes wishes."""

    def __init__(self, keepers: Keepers, callers: Callers, metrics: OperatorMetrics) -> None:
        self._keepers = keepers
        self._callers = callers
        self._metrics = metrics

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one wish."""
        namespace, pool = request.match_info["namespace"], request.match_info["pool"]
        try:
            async with asyncio.timeout(ANSWER_S):
                if refusal := await self._refusal(request, namespace, pool):
                    return refusal
                wanted = MoveRequest.model_validate_json(await request.read())
                keeper = self._keepers.of(namespace, pool)
                if keeper is None:
                    return _detail(HTTPStatus.NOT_FOUND, f"there is no pool {namespace}/{pool}")
                wish = Wish(int(request.match_info["env_idx"]), wanted.from_uid, wanted.epoch)
                return await self._ask(keeper, wish)
        except ValidationError as error:
            return _detail(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except ClusterError as error:
            return _detail(HTTPStatus.BAD_GATEWAY, f"the API server did not say whose token this is: {error.message}")
        except TimeoutError:
            return _detail(HTTPStatus.GATEWAY_TIMEOUT, f"no answer within {ANSWER_S:g} s; the wish is withdrawn")

    async def _refusal(self, request: web.Request, namespace: str, pool: str) -> web.Response | None:
        """Return what to answer somebody who is not a router of the pool."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        caller = await self._callers.name(token.strip()) if scheme.lower() == "bearer" and token.strip() else None
        if caller is None:
            return _detail(HTTPStatus.UNAUTHORIZED, "show a service account token that was made for this operator")
        if caller != service_account_user(namespace, router_name(pool)):
            logger.warning("pool %s/%s: refused a wish of %s", namespace, pool, caller)
            return _detail(HTTPStatus.FORBIDDEN, f"{caller} is no router of {namespace}/{pool}")
        return None

    async def _ask(self, keeper: PoolKeeper, wish: Wish) -> web.Response:
        result = "late"
        try:
            entry = await keeper.wishes.ask(wish)
            result = "no_spare" if entry is None else "ok"
        finally:
            self._metrics.moves.labels(keeper.namespace, keeper.name, result).inc()
        if entry is None:
            return _detail(HTTPStatus.SERVICE_UNAVAILABLE, "there is no spare")
        return web.json_response(entry.model_dump())


def _detail(status: HTTPStatus, words: str) -> web.Response:
    return web.json_response({"detail": words}, status=status)
