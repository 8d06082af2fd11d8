"""Paths of the env server for people, probes and the router."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, Response

from osworld_contract.faults import FaultReason, fault_error
from osworld_contract.names import ACK_PATH, HEADER_IDEMPOTENCY_KEY, HEADER_STEP
from osworld_contract.replay import JOURNAL_PATH, REPLAY_PATH, EpisodeJournal, ReplayReply, ReplayRequest
from osworld_contract.wire import EnvState
from osworld_envpod.admission import Admission, step_number, tenancy_of
from osworld_envpod.replies import json_reply
from osworld_envpod.server import EnvServer
from osworld_envpod.slot import Caller, call_key


def add_operator_paths(app: FastAPI, server: EnvServer, admission: Admission) -> None:
    """Add what people, probes and the router look at."""

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> Response:
        """Say whether a reset would be taken: 200, else 503."""
        is_ready = server.is_ready
        return JSONResponse({"status": "ok" if is_ready else "not ready"}, 200 if is_ready else 503)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Return the metrics in Prometheus's text form."""
        return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/state")
    async def state(request: Request) -> EnvState:
        """Return episode, step, desktop and fault."""
        admission.look(request.headers)
        return server.state()

    @app.get("/screen", response_class=Response)
    async def screen(request: Request) -> Response:
        """Return the screen as an image."""
        admission.check_uid(request.headers)
        frame = await server.runner.screen()
        return Response(frame, media_type="image/png" if frame.startswith(b"\x89PNG") else "image/jpeg")

    @app.post(ACK_PATH)
    async def ack(request: Request) -> dict[str, bool]:
        """Take note that the client has the reply to the reset or step of this key or step number."""
        admission.admit(request.headers)
        key = call_key(request.headers.get(HEADER_IDEMPOTENCY_KEY), step_number(request.headers))
        if key is None:
            message = f"name the call by {HEADER_IDEMPOTENCY_KEY} or {HEADER_STEP}"
            raise fault_error(FaultReason.BAD_REQUEST, message)
        return {"acknowledged": server.acknowledge(key, tenancy_of(request.headers))}

    @app.post(REPLAY_PATH)
    async def replay(request: Request, body: ReplayRequest) -> ReplayReply:
        """Bring a lost episode to where it was: reset, its steps again, and the same screens and windows after each."""
        admission.admit(request.headers)
        return await server.replay(body, Caller(request.is_disconnected, tenancy=tenancy_of(request.headers)))

    @app.get(JOURNAL_PATH, response_model=EpisodeJournal)
    async def journal(request: Request) -> Response:
        """Return the episode under way as a router has to know it to have it played again; 204 where it must not be."""
        admission.admit(request.headers)
        pieces = await server.journal(tenancy_of(request.headers))
        return Response(status_code=HTTPStatus.NO_CONTENT) if pieces is None else json_reply(pieces)

    @app.post("/drain")
    async def drain(request: Request) -> EnvState:
        """Take no new episode from now on; 409 while one is under way."""
        admission.look(request.headers)
        return await server.drain()
