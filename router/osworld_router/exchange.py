"""One client's call while it is under way, and the limits of all calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from osworld_contract.registry import RegistryEntry
from osworld_router.body import BodyLimits, RequestBody
from osworld_router.policy import Failure
from osworld_router.reply import Reply
from osworld_router.resolve import Operation, Request, Route
from osworld_router.upstream import Headers


@dataclass(frozen=True)
class CallLimits:
    """Times and sizes of calls."""

    deadlines_s: Mapping[Operation, float]
    env_wait_s: float
    retry_s: float
    hedge_after_s: float
    body: BodyLimits


@dataclass
class Exchange:
    """One client's call."""

    request: Request
    route: Route
    body: RequestBody
    reply: Reply
    keys: Headers
    """Headers by which every attempt at this call is known as the same."""
    on_last_byte: Callable[[], None]
    """Called before the last of the env server's reply is sent: its client may make the next call at once."""
    entry: RegistryEntry | None = None
    """The env server that was asked last."""
    attempts: int = 0
    hedges: int = 0
    """How often a spare was asked for."""
    is_unseen: bool = False
    """Whether it is about an episode of which this router knows nothing; see `scores`."""
    failures: list[Failure] = field(default_factory=list)
    """The attempts that failed."""
