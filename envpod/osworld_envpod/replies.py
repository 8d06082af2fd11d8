"""Replies of the trainer's wire, put together from encoded messages, and how a fault is answered."""

import json
from collections.abc import AsyncIterator, Mapping

from starlette.responses import Response, StreamingResponse

from osworld_contract.faults import Fault, FaultBody, FaultReason
from osworld_contract.names import HEADER_CLIENT, HEADER_CLIENT_V2, HEADER_EPISODE, HEADER_FAULT
from osworld_contract.replay import HEADER_SIGHT
from osworld_envpod.episode import Episode, Observation
from osworld_envpod.history import History


def wants_error_status(headers: Mapping[str, str]) -> bool:
    """Say whether this client reads faults in error replies; v1 turns any error of a step into a format penalty."""
    return headers.get(HEADER_CLIENT, "").strip().lower() == HEADER_CLIENT_V2


def observation_reply(observation: Observation, episode: Episode, env_idx: int, since: int | None) -> Response:
    """Return the reply of a reset or step.

    Args:
        observation: What to say.
        episode: Whose reply it is.
        env_idx: The number to echo.
        since: Index of the first message to send; None means all, as v1 does it.
    """
    first = min(since or 0, observation.end or 0)
    pieces = [b'{"env_idx":%d,"obs_messages":' % env_idx]
    pieces += episode.history.encoded(first, observation.end) if observation.end is not None else [b"null"]
    pieces.append(b',"is_done":%s,"format_reward":%s' % (_json(observation.is_done), _json(observation.format_reward)))
    if since is not None:
        pieces.append(b',"first":%d' % first)
    if observation.fault is not None:
        pieces.append(b',"fault":' + observation.fault.model_dump_json().encode())
    pieces.append(b"}")
    headers = {HEADER_FAULT: observation.fault.header} if observation.fault else {}
    if episode.task is not None:
        headers[HEADER_EPISODE] = episode.id
    if observation.mark is not None:
        headers[HEADER_SIGHT] = observation.mark.header
    return json_reply(pieces, headers)


def history_reply(history: History, since: int | None) -> Response:
    """Return the reply of ``/env/history_messages``."""
    first = min(since or 0, len(history))
    pieces = [b'{"history_messages":', *history.encoded(first)]
    if since is not None:
        pieces.append(b',"first":%d' % first)
    pieces.append(b"}")
    return json_reply(pieces)


def fault_reply(fault: Fault, status: int | None = None) -> Response:
    """Return `fault` as an error reply, with its own status or with `status`."""
    headers = {HEADER_FAULT: fault.header}
    if fault.reason is FaultReason.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="osworld-env"'
    return Response(
        FaultBody.of(fault).model_dump_json(),
        status_code=status or fault.status,
        media_type="application/json",
        headers=headers,
    )


def json_reply(pieces: list[bytes], headers: Mapping[str, str] = {}) -> Response:
    """Send `pieces` without joining them: a long episode's reply has tens of megabytes that need no second copy."""

    async def stream() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    length = sum(len(piece) for piece in pieces)
    return StreamingResponse(
        stream(), media_type="application/json", headers={**headers, "Content-Length": str(length)}
    )


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
