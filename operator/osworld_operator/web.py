"""The operator's own HTTP: whether it lives, its metrics, and routers' wishes for moves."""

import time
from http import HTTPStatus
from typing import Final

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from osworld_operator.callers import Callers
from osworld_operator.handlers import Keepers
from osworld_operator.keeper import RESYNC_S, RETRY_MAX_S
from osworld_operator.lease import Lease
from osworld_operator.metrics import OperatorMetrics
from osworld_operator.moves import PATH, MoveDoor
from osworld_operator.relay import RELAYED, Relay

STALE_S: Final = 5 * (RESYNC_S + RETRY_MAX_S)
"""A keeper that has ended no round for that long hangs: each call of a round has a deadline of its own."""


BODY_BYTES_MAX: Final = 4096
"""Of a request. A wish has some 70."""


def application(keepers: Keepers, lease: Lease, callers: Callers, metrics: OperatorMetrics) -> web.Application:
    """Return ``/livez``, ``/readyz``, ``/metrics`` and the path for moves."""
    metrics.leader.set_function(lambda: float(lease.is_held))
    relay = Relay(lease, MoveDoor(keepers, callers, metrics))

    async def livez(_request: web.Request) -> web.Response:
        now = time.monotonic()
        late = [f"{keeper.namespace}/{keeper.name}" for keeper in keepers.all if now - keeper.last_round_s > STALE_S]
        status = HTTPStatus.SERVICE_UNAVAILABLE if late else HTTPStatus.OK
        return web.json_response({"status": "late" if late else "ok", "late": late}, status=status)

    async def readyz(_request: web.Request) -> web.Response:
        """Say whether this operator leads or stands by. It is not ready where it can do neither."""
        is_fine = lease.is_held or lease.is_standby
        status = HTTPStatus.OK if is_fine else HTTPStatus.SERVICE_UNAVAILABLE
        return web.json_response({"status": lease.status, "is_leader": lease.is_held}, status=status)

    async def show_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show_metrics)
    app.router.add_post(PATH, relay.handle)
    app.router.add_post(RELAYED + PATH, relay.handle_relayed)
    return app
