"""The HTTP face of the env server: paths to methods, faults to replies.

``uvicorn --factory osworld_envpod.app:create_app`` works; ``python -m osworld_envpod`` is the same with exit codes.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from osworld_contract.faults import Fault, FaultBody, FaultError, FaultKind, FaultReason, fault_error
from osworld_contract.logs import set_up_logging
from osworld_contract.names import (
    HEADER_ACKS,
    HEADER_ENDED,
    HEADER_IDEMPOTENCY_KEY,
    HEADER_SEEN,
    HEADER_UNSEEN,
)
from osworld_contract.record import RecordEnd
from osworld_contract.settings import SettingsError
from osworld_contract.wire import EnvReply, HealthReply, HistoryReply, ResetRequest, StepRequest
from osworld_envpod.admission import Admission, step_number, tenancy_of
from osworld_envpod.desktops.choose import desktop_for
from osworld_envpod.edge import Edge
from osworld_envpod.episode import Observation
from osworld_envpod.keeping import keep
from osworld_envpod.metrics import EnvMetrics
from osworld_envpod.operator_paths import add_operator_paths
from osworld_envpod.replies import (
    fault_reply,
    history_reply,
    observation_reply,
    wants_error_status,
)
from osworld_envpod.runner import Runner
from osworld_envpod.scoring import Question
from osworld_envpod.secrecy import keep_secrets
from osworld_envpod.server import EnvServer
from osworld_envpod.settings import EnvServerSettings, load_settings
from osworld_envpod.slot import Caller
from osworld_envpod.tasks.choose import worker_for

logger = logging.getLogger(__name__)

EXIT_USAGE = 2
"""Exit code of a start that its settings forbid."""

KVM_DEVICE = Path("/dev/kvm")

RESET_PATH = "/env/reset"

RIVAL_REASONS = frozenset({FaultReason.BUSY, FaultReason.STALE_EPOCH, FaultReason.WRONG_SERVER})
"""Refusals of a reset by somebody who does not have this env: they change nothing for the one who has it."""

Since = Annotated[int | None, Query(ge=0, le=1_000_000, description="Send messages from this index on.")]

FAULTS: dict[int | str, dict[str, object]] = {
    status: {"model": FaultBody} for status in (400, 401, 404, 405, 409, 413, 421, 422, 500, 501, 503, 504, 507)
}


def create_app(settings: EnvServerSettings | None = None, on_fatal: Callable[[str], None] | None = None) -> FastAPI:
    """Return the app. Its life span starts and stops desktop and task worker.

    Args:
        settings: None means: read them from the environment.
        on_fatal: Called with one sentence when the desktop cannot come up; by default the process is asked to stop.

    Raises:
        SystemExit: Without `settings`, where a variable is missing or wrong: one sentence and code 2.
    """
    settings = settings or _settings_of_a_factory()
    metrics = EnvMetrics()
    runner = Runner(settings, desktop_for(settings, metrics.show_image), worker_for(settings), metrics)
    server = EnvServer(settings, runner, metrics)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        _say_hello(settings)
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(_start(server, on_fatal or _ask_to_stop))
            keeping = group.create_task(keep(server))
            try:
                yield
            finally:
                starting.cancel()
                keeping.cancel()
                await server.stop()

    app = FastAPI(title="osworld-env env server", version="1", lifespan=life, responses=FAULTS)
    admission = Admission(settings.uid)
    _add_trainer_paths(app, server, admission)
    add_operator_paths(app, server, admission)
    _add_fault_handlers(app, server)
    token = settings.token.get_secret_value() if settings.token else None
    app.add_middleware(
        Edge, token=token, is_open=settings.insecure and token is None, max_body_bytes=settings.max_body_bytes
    )
    return app


def _settings_of_a_factory() -> EnvServerSettings:
    """Do for ``uvicorn --factory`` what `osworld_envpod.__main__` does before it builds the app."""
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(EXIT_USAGE) from error
    keep_secrets()
    set_up_logging(settings.log_level.value, settings.secrets)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        # Its own handlers would write past the filter that keeps secrets out.
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    return settings


def _add_trainer_paths(app: FastAPI, server: EnvServer, admission: Admission) -> None:
    """Add the trainer's wire, v1, with what this server adds to it."""

    @app.post(RESET_PATH, response_model=EnvReply)
    async def reset(request: Request, body: ResetRequest) -> Response:
        """Begin an episode: a clean desktop, the task set up, the first three messages."""
        env_idx = admission.admit(request.headers)
        observation = await server.reset(
            body.task_config, request.headers.get(HEADER_IDEMPOTENCY_KEY), _caller(request)
        )
        if (end := _end_before(request)) is not None:
            server.runner.note_end(end)
        return observation_reply(observation, server.episode, env_idx, None)

    @app.post("/env/step", response_model=EnvReply)
    async def step(request: Request, body: StepRequest, since: Since = None) -> Response:
        """Carry out a prediction. A fault of ours is no error here for a v1 client: it would count as a penalty."""
        env_idx = admission.admit(request.headers)
        key, number = request.headers.get(HEADER_IDEMPOTENCY_KEY), step_number(request.headers)
        try:
            observation = await server.step(body.prediction, key, number, _caller(request))
        except FaultError as error:
            if error.fault.reason not in {FaultReason.NO_EPISODE, FaultReason.EPISODE_OVER}:
                raise
            observation = Observation(None, True, 0.0, error.fault)
        if observation.fault is not None and wants_error_status(request.headers):
            return fault_reply(observation.fault)
        return observation_reply(observation, server.episode_of(tenancy_of(request.headers)), env_idx, since)

    @app.post("/env/evaluate", response_model=float)
    async def evaluate(request: Request) -> Response:
        """Return the score of OSWorld's evaluator as a bare number."""
        admission.admit(request.headers)
        try:
            is_unseen = request.headers.get(HEADER_UNSEEN) == "1"
            question = Question(_caller(request), is_unseen, request.headers.get(HEADER_SEEN))
            return JSONResponse(await server.evaluate(question))
        except FaultError as error:
            # Whatever kept a score away, the trainer's clients know 503 as "not ready, try again".
            return fault_reply(error.fault, None if error.fault.kind is FaultKind.CLIENT else 503)

    @app.post("/env/history_messages", response_model=HistoryReply)
    async def history_messages(request: Request, since: Since = None) -> Response:
        """Return the episode's messages; none before a reset."""
        admission.admit(request.headers)
        return history_reply(server.episode_of(tenancy_of(request.headers)).history, since)

    @app.get("/health")
    def health() -> HealthReply:
        """Say what this server is. Needs no token."""
        # A device that opens is no proof: where a virtual machine had to be emulated, KVM is not to be had.
        is_there = KVM_DEVICE.exists() and server.facts.accelerator != "tcg"
        fields = {"accelerator": server.facts.accelerator, "message": _kvm_words(is_there)}
        return HealthReply(
            status="ok" if server.is_ready else "degraded",
            provider=server.facts.provider,
            kvm_available=is_there,
            kvm_device=str(KVM_DEVICE) if is_there else None,
            env_status="initialized" if server.is_initialized else "not_initialized",
            **fields,
        )


def _add_fault_handlers(app: FastAPI, server: EnvServer) -> None:
    """Answer every error with the one body: the fault."""

    def answer(request: Request, fault: Fault) -> Response:
        if request.url.path == RESET_PATH and fault.reason not in RIVAL_REASONS:
            server.refuse_scores(fault)
        return fault_reply(fault)

    @app.exception_handler(FaultError)
    async def fault(request: Request, error: Exception) -> Response:
        assert isinstance(error, FaultError)
        return answer(request, error.fault)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return answer(request, fault_error(FaultReason.BAD_REQUEST, f"{field}: {first['msg']}", field=field).fault)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        reason = {404: FaultReason.NOT_FOUND, 405: FaultReason.METHOD_NOT_ALLOWED}.get(
            error.status_code, FaultReason.BAD_REQUEST
        )
        reply = fault_reply(fault_error(reason, str(error.detail)).fault)
        reply.headers.update(error.headers or {})
        return reply


def _caller(request: Request) -> Caller:
    acknowledges = request.headers.get(HEADER_ACKS) == "1"
    return Caller(request.is_disconnected, acknowledges, tenancy_of(request.headers))


def _end_before(request: Request) -> RecordEnd | None:
    """Return what a router says of an episode before, None also where that is not understood: a reset goes on."""
    value = request.headers.get(HEADER_ENDED)
    end = None if value is None else RecordEnd.parse(value)
    if value is not None and end is None:
        logger.warning("%s is not understood, and ignored", HEADER_ENDED)
    return end


async def _start(server: EnvServer, on_fatal: Callable[[str], None]) -> None:
    try:
        await server.start()
    except FaultError as error:
        on_fatal(error.fault.message)
    except OSError as error:
        on_fatal(f"the desktop could not be started: {error}")
    except Exception as error:
        logger.exception("The desktop could not be started")
        on_fatal(f"the desktop could not be started: {error}")


def _ask_to_stop(sentence: str) -> None:
    logger.critical("%s", sentence)
    os.kill(os.getpid(), signal.SIGTERM)


def _say_hello(settings: EnvServerSettings) -> None:
    """Log the lines that today's operators look for."""
    logger.info("Startup: PROVIDER=%s", settings.provider)
    if KVM_DEVICE.exists():
        logger.info("KVM detected: %s exists", KVM_DEVICE)
    else:
        logger.info("KVM not found: %s does not exist", KVM_DEVICE)


def _kvm_words(is_there: bool) -> str:
    return f"{KVM_DEVICE} exists" if is_there else "KVM not available"
