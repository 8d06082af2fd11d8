"""Which replies of env servers must not reach the client as they are, and the faults that are answered instead."""

from http import HTTPStatus

from pydantic import ValidationError

from osworld_contract.faults import Fault, FaultBody, FaultReason, fault_error
from osworld_router.resolve import Operation, Route
from osworld_router.upstream import UpstreamReply


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
