"""The ASGI interface in types, and the head of a request read from it."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, Protocol

from osworld_router.resolve import Request

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

WIRE: Final = "osworld_wire"
"""Under this key of a scope's state is the `Wire` of its reply; `front` puts it there."""


class Wire(Protocol):
    """The client's side of one reply, past ASGI: bodies go out without a copy or a turn of the loop for each piece."""

    @property
    def can_write(self) -> bool:
        """Whether the head of the reply is out, with the length of its body."""

    @property
    def is_clogged(self) -> bool:
        """Whether something that was written has not left yet."""

    @property
    def is_gone(self) -> bool:
        """Whether the client has closed its connection."""

    def write(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Send pieces of the body at once, but for its last byte; their memory must not change before they have left.

        A client that closes its connection before it has that byte has not got the reply; who has it may close at once,
        and would be taken for one that went too early.
        """

    kept_back: bytes
    """The last byte of the body, once it was written."""

    async def drained(self) -> None:
        """Return when the kernel has taken all that was written, or the client has gone."""

    def cut(self) -> None:
        """End the client's connection at once, whatever has not left yet: who reads no more would keep it for ever."""

    def on_change(self, callback: Callable[[], None] | None) -> None:
        """Have `callback` called when all has left, or the client has gone."""


def request_of(scope: Scope) -> Request:
    """Return the head of the HTTP request that `scope` describes."""
    return Request(
        method=scope["method"], path=scope["path"], query=scope["query_string"], headers=tuple(scope["headers"])
    )
