"""The reply to one request: what has been sent of it, and the forms in which a fault is sent."""

from collections.abc import Iterable
from typing import Final

from osworld_contract.faults import Fault, FaultBody, FaultKind, FaultReason
from osworld_contract.names import HEADER_FAULT
from osworld_contract.wire import EnvReply
from osworld_router.asgi import Send

RawHeaders = Iterable[tuple[bytes, bytes]]

JSON: Final = b"application/json"
CHALLENGES: Final = (b'Bearer realm="osworld-env"', b'Basic realm="osworld-env", charset="UTF-8"')


class Reply:
    """Sends one reply, once. ``status`` is None until its head has been sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None
        self.fault: Fault | None = None
        """The fault that was sent, if one was."""

    async def start(self, status: int, headers: RawHeaders) -> None:
        """Send the head. From here on the status is settled."""
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def body(self, data: bytes, *, is_last: bool) -> None:
        """Send a piece of the body; waits while the client is slow."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def drained(self) -> None:
        """Return when the kernel has taken all that was sent, or the client has gone.

        The server's transport pauses at the first byte that the kernel does not take (`server`), and whoever sends next
        waits: an empty piece is sent for that wait alone.
        """
        await self.body(b"", is_last=False)

    async def whole(self, status: int, data: bytes, content_type: bytes = JSON, headers: RawHeaders = ()) -> None:
        """Send a reply that is at hand."""
        fixed = [(b"content-type", content_type), (b"content-length", str(len(data)).encode())]
        await self.start(status, [*fixed, *headers])
        await self.body(data, is_last=True)

    async def error(self, fault: Fault) -> None:
        """Send `fault` with its status."""
        headers = [_fault_header(fault)]
        if fault.reason is FaultReason.UNAUTHORIZED:
            headers += [(b"www-authenticate", challenge) for challenge in CHALLENGES]
        elif fault.reason is FaultReason.METHOD_NOT_ALLOWED:
            headers.append((b"allow", str(fault.evidence.get("allow", "")).encode()))
        elif fault.reason is FaultReason.BODY_TOO_LARGE:
            headers.append((b"connection", b"close"))
        self.fault = fault
        await self.whole(fault.status, FaultBody.of(fault).model_dump_json().encode(), headers=headers)

    async def faulted_step(self, env_idx: int, fault: Fault) -> None:
        """Send `fault` as the end of the episode, as v1 needs it (wire.md, A)."""
        body = EnvReply(env_idx=env_idx, obs_messages=None, is_done=True, format_reward=0.0, fault=fault)
        self.fault = fault
        await self.whole(200, body.model_dump_json(exclude={"first"}).encode(), headers=[_fault_header(fault)])


def ends_v1_episode(fault: Fault) -> bool:
    """Return whether a v1 client's step that meets `fault` is answered 200 and the end of the episode.

    Any error status would become a format penalty of -1 there, which a fault of ours must never be. A mistake of the
    client's set-up keeps its status: it is to be seen, and no episode of that client has begun.
    """
    return fault.kind is not FaultKind.CLIENT or fault.reason in (FaultReason.STALE_EPOCH, FaultReason.NO_EPISODE)


def _fault_header(fault: Fault) -> tuple[bytes, bytes]:
    return HEADER_FAULT.lower().encode(), fault.header.encode()
