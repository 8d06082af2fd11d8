"""What a download asks for at last, whatever kind of address led there."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import httpx


@dataclass(frozen=True)
class Target:
    """What is asked for at last."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    sha256: str | None = None
    """As the source itself says it."""


Resolve = Callable[[httpx.AsyncClient], Awaitable[Target]]
"""Asked before each try: tokens and signed addresses do not live as long as a download."""
