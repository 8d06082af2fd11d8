"""Which replies of env servers must not reach the client as they are, and the faults that are answered instead."""

from http import HTTPStatus
from typing import Final

from pydantic import BaseModel, ValidationError

from osworld_contract.faults import SPECS, Fault, FaultBody, FaultReason, fault_error
from osworld_contract.names import HEADER_FAULT
from osworld_router.policy import IN_PLACE
from osworld_router.resolve import Operation, Route
from osworld_router.upstream import UpstreamReply

_ONE_EPISODE: Final = frozenset({Operation.STEP, Operation.EVALUATE})
_LOSSES: Final = frozenset(f"{SPECS[reason].kind}/{reason}".encode() for reason in IN_PLACE)
_FAULT_HEADER: Final = HEADER_FAULT.lower().encode()


class _Faulted(BaseModel):
    """A body with a fault: an error's, or that of a v1 client's step."""

    fault: Fault


async def lost_part(reply: UpstreamReply, route: Route) -> Fault | None:
    """Return the fault of a step or evaluate in which a part of the env server was lost, None where none was.

    It is a reason to play the episode again, where that may be done.

    Raises:
        TransferBroken: The reply's body broke off.
    """
    says_lost = any(name.lower() == _FAULT_HEADER and value in _LOSSES for name, value in reply.headers)
    if route.operation not in _ONE_EPISODE or not says_lost:
        return None
    try:
        return _Faulted.model_validate_json(await reply.snippet()).fault
    except ValidationError:
        message = f"the env server's fault in a {route.operation} cannot be read"
        return fault_error(FaultReason.ENV_DOWN, message, operation=route.operation.in_fault).fault


async def fault_instead(reply: UpstreamReply, route: Route, *, is_v2: bool) -> Fault | None:
    """Return the fault to answer instead of `reply`, None where it is to be passed on.

    - 421: the env_idx has moved.
    - 401 and 403 are about the router's token, of which the client knows nothing.
    - An error of the server in a v1 client's step would become a format penalty.
    - An error of the server in a reset may be no more than a reason to try again.

    Raises:
        TransferBroken: The reply's body, which may hold the fault, broke off.
    """
    operation = route.operation.in_fault
    status = reply.status
    if status == HTTPStatus.MISDIRECTED_REQUEST:
        return fault_error(FaultReason.STALE_EPOCH, operation=operation).fault
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        message = f"the env server refused the router's token with status {status}"
        fault = fault_error(FaultReason.ENV_DOWN, message, operation=operation, status=status).fault
        return fault.model_copy(update={"retryable": False})  # the token is the same the next time
    is_read = route.operation is Operation.RESET or (route.operation is Operation.STEP and not is_v2)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and is_read:
        try:
            return FaultBody.model_validate_json(await reply.snippet()).fault
        except ValidationError:
            message = f"the env server answered a {operation} with status {status} and no fault"
            return fault_error(FaultReason.ENV_DOWN, message, operation=operation, status=status).fault
    return None
