"""The operator's own HTTP: whether it lives, and its metrics."""

import time
from http import HTTPStatus
from typing import Final

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from osworld_operator.handlers import Keepers
from osworld_operator.keeper import RESYNC_S, RETRY_MAX_S
from osworld_operator.metrics import OperatorMetrics

STALE_S: Final = 5 * (RESYNC_S + RETRY_MAX_S)
"""A keeper that has ended no round for that long hangs: each call of a round has a deadline of its own."""


def application(keepers: Keepers, metrics: OperatorMetrics) -> web.Application:
    """Return ``/livez`` and ``/metrics``."""

    async def livez(_request: web.Request) -> web.Response:
        now = time.monotonic()
        late = [f"{keeper.namespace}/{keeper.name}" for keeper in keepers.all if now - keeper.last_round_s > STALE_S]
        status = HTTPStatus.SERVICE_UNAVAILABLE if late else HTTPStatus.OK
        return web.json_response({"status": "late" if late else "ok", "late": late}, status=status)

    async def show_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/livez", livez)
    app.router.add_get("/metrics", show_metrics)
    return app
