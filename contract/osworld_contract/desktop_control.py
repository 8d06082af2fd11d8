"""How the two containers of an xvfb env pod talk: the env server's, and the desktop's PID 1.

A Unix socket of packets (``SOCK_SEQPACKET``), which the env server makes in a folder that the desktop's container
cannot write to. One packet is one JSON object: `Order` to the desktop, `Event` back. Standard library only: a PID 1
that ends everything in its container should depend on little.

The desktop connects when it is empty, and says so (`EVENT_EMPTY`). Then the env server gives orders, one at a time:
`ORDER_GUARD` is not answered, `ORDER_BOOT` is with `EVENT_STARTED`, `ORDER_EMPTY` with `EVENT_EMPTY`. `EVENT_ENDED`
comes unasked. What the desktop cannot do ends its PID 1, and so the connection.
"""

from typing import Final, NotRequired, TypedDict

CONTROL_FOLDER: Final = "/var/lib/osworld-desktop"
"""Where the two containers meet; the desktop's sees it read-only."""

CONTROL_SOCKET: Final = "control"
CONTROL_VERSION: Final = 1
PACKET_MAX_BYTES: Final = 16384

ORDER_GUARD: Final = "guard"
"""Comes with one descriptor, to be held until everything that the agent started has ended: the env server's address,
which nobody may take while an agent lives that could answer in the env server's place."""

ORDER_BOOT: Final = "boot"
"""Empty the desktop, then start a session with `arguments`. Comes with descriptors, which the session finds from
`SESSION_FIRST_FD` on; the last one is for its output."""

ORDER_EMPTY: Final = "empty"
"""End every process, and remove every file that is not the image's."""

EVENT_EMPTY: Final = "empty"
EVENT_STARTED: Final = "started"
EVENT_ENDED: Final = "ended"
"""The session ended by itself, and everything in the desktop was ended with it."""

SESSION_FIRST_FD: Final = 100


class Order(TypedDict):
    """What the env server asks for."""

    order: str
    arguments: NotRequired[list[str]]


class Event(TypedDict):
    """What the desktop's PID 1 reports."""

    event: str
    version: int
    exit_code: NotRequired[int]
