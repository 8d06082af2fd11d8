"""The OpenAPI document of the router, assembled from the models of the contract."""

from functools import cache
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from osworld_contract.faults import SPECS, FaultBody
from osworld_contract.names import HEADER_CLIENT, HEADER_ENV_IDX, HEADER_IDEMPOTENCY_KEY, HEADER_STEP
from osworld_contract.replay import EpisodeJournal, JournalTaken
from osworld_contract.wire import EnvReply, EnvsReply, EnvState, HealthReply, HistoryReply, ResetRequest, StepRequest
from osworld_router.health import PoolHealth
from osworld_router.peers import PEERS_PATH, PeerReply
from osworld_router.resolve import CALLS, OPEN_PAGES, PAGES, QUERY_ENV_IDX, Operation

JsonObject = dict[str, Any]
"""JSON Schema has no type of its own in Python."""

REF: Final = "#/components/schemas/{model}"
ANY_BODY: Final[JsonObject] = {"type": "object"}

_MODELS: Final[tuple[type[BaseModel], ...]] = (
    EnvReply, EnvsReply, EnvState, EpisodeJournal, FaultBody, HealthReply, HistoryReply, JournalTaken, PeerReply,
    PoolHealth, ResetRequest, StepRequest,
)  # fmt: skip

_PATH_IDX: Final[JsonObject] = {
    "name": "env_idx", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0, "maximum": 999_999},
}  # fmt: skip


@cache
def document() -> JsonObject:
    """Return the document. It is the same for every pool; treat it as read-only."""
    _, schemas = models_json_schema(
        [(model, "serialization" if "Reply" in model.__name__ else "validation") for model in _MODELS],
        ref_template=REF,
    )
    paths: JsonObject = {}
    for path, operation in CALLS.items():
        paths[path] = {"post": _call(operation, [])}
        paths[f"/envs/{{env_idx}}{path}"] = {"post": _call(operation, [_PATH_IDX])}
    for path in PAGES:
        paths[f"/envs/{{env_idx}}{path}"] = {"get": _env_page(path)}
    paths |= {path: {"get": page} for path, page in _own_pages().items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "osworld-env router",
            "version": "v1",
            "description": "All envs of a pool behind one URL. Every error is a fault.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic", "description": "The password is the token."},
            },
        },
        "security": [{"bearer": []}, {"basic": []}],
    }


def _call(operation: Operation, parameters: list[JsonObject]) -> JsonObject:
    bodies = {
        Operation.RESET: _ref(ResetRequest),
        Operation.STEP: _ref(StepRequest),
        Operation.JOURNAL: _ref(EpisodeJournal),
    }
    replies = {
        Operation.RESET: _ref(EnvReply),
        Operation.STEP: _ref(EnvReply),
        Operation.EVALUATE: {"type": "number"},
        Operation.HISTORY: _ref(HistoryReply),
        Operation.JOURNAL: _ref(JournalTaken),
    }
    named = parameters or [
        _parameter(HEADER_ENV_IDX, "header", {"type": "integer", "minimum": 0, "maximum": 999_999}),
        _parameter(QUERY_ENV_IDX, "query", {"type": "integer", "minimum": 0, "maximum": 999_999}),
    ]
    keys = [_parameter(HEADER_CLIENT, "header", {"type": "string", "enum": ["v1", "v2"]})]
    if operation is Operation.STEP:
        keys.append(_parameter(HEADER_IDEMPOTENCY_KEY, "header", {"type": "string", "pattern": "^[!-~]+$"}))
        keys.append(_parameter(HEADER_STEP, "header", {"type": "integer", "minimum": 1}))
    return {
        "operationId": f"{operation.value}{'_of_env' if parameters else ''}",
        "parameters": [*named, *keys],
        "requestBody": {"required": operation in bodies, "content": _json(bodies.get(operation, ANY_BODY))},
        "responses": {
            "200": {"description": "The reply.", "content": _json(replies[operation])},
            **_faults(),
        },
    }


def _env_page(path: str) -> JsonObject:
    contents = {
        "/health": _json(_ref(HealthReply)),
        "/state": _json(_ref(EnvState)),
        "/metrics": {"text/plain": {"schema": {"type": "string"}}},
        "/screen": {"image/png": {}, "image/jpeg": {}},
    }
    return {
        "operationId": f"{path.removeprefix('/')}_of_env",
        "parameters": [_PATH_IDX],
        "responses": {
            "200": {"description": "The env server's page.", "content": contents.get(path, _json(ANY_BODY))},
            **_faults(),
        },
    } | ({"security": []} if path in OPEN_PAGES else {})


def _own_pages() -> JsonObject:
    contents = {
        "/health": _json(_ref(PoolHealth)),
        "/livez": _json(ANY_BODY),
        "/readyz": _json(ANY_BODY),
        "/envs": _json(_ref(EnvsReply)),
        PEERS_PATH: _json(_ref(PeerReply)),
        "/metrics": {"text/plain": {"schema": {"type": "string"}}},
        "/openapi.json": _json(ANY_BODY),
    }
    return {
        path: {
            "operationId": path.removeprefix("/").replace(".", "_"),
            "responses": {"200": {"description": "The router's page.", "content": content}, **_faults()},
        }
        | ({"security": []} if path in OPEN_PAGES else {})
        for path, content in contents.items()
    }


def _faults() -> JsonObject:
    """Return an entry for each status that a fault may have."""
    statuses = sorted({spec.status for spec in SPECS.values()})
    return {
        str(status): {
            "description": ", ".join(reason for reason, spec in SPECS.items() if spec.status == status),
            "content": _json(_ref(FaultBody)),
        }
        for status in statuses
    }


def _parameter(name: str, place: str, schema: JsonObject) -> JsonObject:
    return {"name": name, "in": place, "required": False, "schema": schema}


def _json(schema: JsonObject) -> JsonObject:
    return {"application/json": {"schema": schema}}


def _ref(model: type[BaseModel]) -> JsonObject:
    return {"$ref": REF.format(model=model.__name__)}
