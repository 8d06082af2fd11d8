"""From a call that failed to a fault: refused connections, time-outs, error replies with and without a fault. Pure."""

import json
import ssl
from enum import StrEnum
from typing import Final

import httpx
from pydantic import JsonValue, ValidationError

from osworld_contract.faults import Fault, FaultBody, FaultReason, fault_error
from osworld_contract.redact import redact
from osworld_env.address import Address
from osworld_env.connections import is_lost

BODY_SHOWN_CHARS: Final = 300


class Cause(StrEnum):
    """Why no reply came; the fault's evidence carries it as ``cause``."""

    DNS = "dns"
    REFUSED = "refused"
    CONNECT_TIMEOUT = "connect_timeout"
    READ_TIMEOUT = "read_timeout"
    TLS = "tls"
    DROPPED = "dropped"


_SENTENCES: Final = {
    Cause.DNS: "the name {host} is not known",
    Cause.REFUSED: "{host} refuses connections at port {port}",
    Cause.CONNECT_TIMEOUT: "{host} does not answer at port {port}",
    Cause.READ_TIMEOUT: "{host}:{port} took the {operation} and did not answer in time",
    Cause.TLS: "no TLS connection with {host}:{port} could be made",
    Cause.DROPPED: "{host}:{port} dropped the connection during {operation}",
}

_REASONS: Final = {
    401: FaultReason.UNAUTHORIZED,
    403: FaultReason.UNAUTHORIZED,
    404: FaultReason.NOT_FOUND,
    405: FaultReason.METHOD_NOT_ALLOWED,
    409: FaultReason.BUSY,
    413: FaultReason.BODY_TOO_LARGE,
    422: FaultReason.BAD_REQUEST,
    504: FaultReason.ENV_TIMEOUT,
}


def cause_of(error: BaseException) -> Cause:
    """Return why `error` came instead of a reply, from its type and what it was raised from."""
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return Cause.CONNECT_TIMEOUT
    if isinstance(error, httpx.TimeoutException) and not is_lost(error):
        return Cause.READ_TIMEOUT
    if not isinstance(error, httpx.ConnectError):
        return Cause.DROPPED
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, ssl.SSLError):
            return Cause.TLS
        chain = chain.__cause__ or chain.__context__
    text = str(error).lower()
    if "ssl" in text or "tls" in text:
        return Cause.TLS
    names = ("name or service", "nodename", "getaddrinfo", "name resolution", "no address associated")
    return Cause.DNS if any(name in text for name in names) else Cause.REFUSED


def fault_of_failure(operation: str, address: Address, error: httpx.HTTPError) -> Fault:
    """Return the fault for a call of `operation` that got no reply."""
    cause = cause_of(error)
    is_late = cause in (Cause.READ_TIMEOUT, Cause.CONNECT_TIMEOUT)
    message = _SENTENCES[cause].format(host=address.host, port=address.port, operation=operation)
    return fault_error(
        FaultReason.ENV_TIMEOUT if is_late else FaultReason.ENV_DOWN,
        message,
        operation=operation,
        cause=str(cause),
        error=redact(str(error))[:BODY_SHOWN_CHARS],
    ).fault


def fault_of_reply(operation: str, http_status: int, body: bytes) -> Fault:
    """Return the fault of an error reply: the one in its body, or one made from its status where there is none.

    A made one has ``is_from_status`` in its evidence: the reply came from a proxy, or from another env server.
    """
    try:
        return FaultBody.model_validate_json(body).fault
    except ValidationError:
        reason = _REASONS.get(http_status, FaultReason.ENV_DOWN)
        message = f"the server answered {http_status} without a fault: {_detail(body)}"
        return fault_error(reason, message, operation=operation, http_status=http_status, is_from_status=True).fault


def _detail(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    try:
        value: JsonValue = json.loads(text)
    except ValueError:
        value = text
    if isinstance(value, dict) and "detail" in value:
        value = value["detail"]
    shown = value if isinstance(value, str) else json.dumps(value)
    return redact(" ".join(shown.split()))[:BODY_SHOWN_CHARS] or "an empty body"
