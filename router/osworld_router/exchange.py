"""One client's call while it is under way, and the limits of all calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from osworld_contract.registry import RegistryEntry
from osworld_router.body import BodyLimits, RequestBody
from osworld_router.policy import Failure
from osworld_router.reply import RawHeaders, Reply
from osworld_router.resolve import Operation, Request, Route
from osworld_router.sinks import Pieces
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
    on_last_byte: Callable[["Exchange", int, RawHeaders, Pieces], None]
    """Called with the env server's reply before the last of it is sent: its client may make the next call at once."""
    arrived: float
    """When it came, on the monotonic clock."""
    ends_at: float
    """Its deadline, on the monotonic clock."""
    entry: RegistryEntry | None = None
    """The env server that was asked last."""
    attempts: int = 0
    hedges: int = 0
    """How often a spare was asked for."""
    recoveries: int = 0
    """How often its episode was played again."""
    lost_uids: set[str] = field(default_factory=set)
    """Env servers that were lost meanwhile, in the episode or in playing it again."""
    recovered: float | None = None
    """When that was done, on the monotonic clock."""
    is_told: bool = False
    """Whether `on_last_byte` was called."""
    is_unseen: bool = False
    """Whether it is about an episode of which this router knows nothing; see `scores`."""
    ended: Headers = field(default_factory=list)
    """What a reset tells of the episode before it; see `ends`."""
    failures: list[Failure] = field(default_factory=list)
    """The attempts that failed."""
