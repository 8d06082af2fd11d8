"""The reply to one request: what has been sent of it, and the forms in which a fault is sent."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import Final

from osworld_contract.faults import Fault, FaultBody, FaultKind, FaultReason
from osworld_contract.names import HEADER_FAULT
from osworld_contract.wire import EnvReply
from osworld_router.asgi import Send, Wire
from osworld_router.errors import ClientGone
from osworld_router.upstream import UpstreamReply

RawHeaders = Iterable[tuple[bytes, bytes]]

JSON: Final = b"application/json"
CHALLENGES: Final = (b'Bearer realm="osworld-env"', b'Basic realm="osworld-env", charset="UTF-8"')


class Reply:
    """Sends one reply, once. ``status`` is None until its head has been sent."""

    def __init__(self, send: Send, wire: Wire) -> None:
        self._send = send
        self._wire = wire
        self.status: int | None = None
        self.fault: Fault | None = None
        """The fault that was sent, if one was."""

    async def start(self, status: int, headers: RawHeaders) -> None:
        """Send the head. From here on the status is settled."""
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def body(self, data: bytes | memoryview, *, is_last: bool) -> None:
        """Send a piece of the body; waits while the client is slow."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def pieces(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Send what is at hand of the body. Its memory must not change before `drained`."""
        if self._wire.can_write:
            self._wire.write(pieces)
        else:
            for piece in pieces:
                await self.body(piece, is_last=False)

    async def passed(self, upstream_reply: UpstreamReply) -> None:
        """Send the rest of an env server's body as it comes, while the client is there.

        Raises:
            TransferBroken: It broke off.
        """
        if self._wire.is_gone:
            return
        if not self._wire.can_write:
            async with aclosing(upstream_reply.chunks()) as chunks:
                async for chunk in chunks:
                    await self.body(chunk, is_last=False)
            return
        await upstream_reply.pass_on(self._wire)

    async def drained(self) -> None:
        """Return when the kernel has taken all that was sent but the last byte.

        Raises:
            ClientGone: The client has not waited for it.
        """
        await self._wire.drained()
        await asyncio.sleep(0)  # a write that has just failed ends the connection in the loop's next turn, not before
        if self._wire.is_gone:
            raise ClientGone("the client closed its connection before it had the whole reply")

    async def end(self) -> None:
        """Send the last of it."""
        await self.body(self._wire.kept_back, is_last=True)

    def cut(self) -> None:
        """End the client's connection: what it has of the reply must not look whole."""
        self._wire.cut()

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
