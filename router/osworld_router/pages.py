"""The router's own pages, all GET: health, the list of envs, liveness, readiness, metrics, the OpenAPI document."""

import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from pydantic import BaseModel

from osworld_contract.faults import FaultReason, fault_error
from osworld_contract.wire import EnvEntry, EnvsReply
from osworld_router.health import HealthBoard
from osworld_router.metrics import CONTENT_TYPE, Metrics
from osworld_router.openapi import document
from osworld_router.peers import PEERS_PATH, Peers
from osworld_router.reply import JSON, Reply
from osworld_router.snapshots import LiveRegistry

Page = Callable[[Reply], Awaitable[None]]


class Liveness(BaseModel):
    """Reply of ``/livez`` and ``/readyz``."""

    status: str


class Pages:
    """Answers the router's own pages; `by_path` has them all."""

    def __init__(self, registry: LiveRegistry, health: HealthBoard, metrics: Metrics, peers: Peers) -> None:
        self._registry = registry
        self._health = health
        self._metrics = metrics
        self._peers = peers
        self.by_path: Mapping[str, Page] = {
            "/health": self._show_health,
            "/livez": self._show_livez,
            "/readyz": self._show_readyz,
            "/envs": self._show_envs,
            "/metrics": self._show_metrics,
            "/openapi.json": self._show_openapi,
            PEERS_PATH: self._show_peers,
        }

    async def _show_health(self, reply: Reply) -> None:
        await _send(reply, await self._health.read())

    async def _show_livez(self, reply: Reply) -> None:
        await _send(reply, Liveness(status="ok"))

    async def _show_readyz(self, reply: Reply) -> None:
        """Ready once a registry has been read: a router that knows no pool would answer every call with a fault."""
        if not self._registry.snapshot.is_loaded:
            raise fault_error(FaultReason.ENV_DOWN, "no registry has been read yet")
        await _send(reply, Liveness(status="ok"))

    async def _show_envs(self, reply: Reply) -> None:
        snapshot = self._registry.snapshot
        envs = [EnvEntry(**entry.model_dump()) for _, entry in sorted(snapshot.envs.items())]
        await _send(reply, EnvsReply(pool=snapshot.pool, envs=envs))

    async def _show_metrics(self, reply: Reply) -> None:
        await self._health.read()
        await reply.whole(HTTPStatus.OK, self._metrics.exposition(), CONTENT_TYPE)

    async def _show_peers(self, reply: Reply) -> None:
        await _send(reply, self._peers.answer())

    async def _show_openapi(self, reply: Reply) -> None:
        await reply.whole(HTTPStatus.OK, json.dumps(document()).encode(), JSON)


async def _send(reply: Reply, model: BaseModel) -> None:
    await reply.whole(HTTPStatus.OK, model.model_dump_json().encode())
