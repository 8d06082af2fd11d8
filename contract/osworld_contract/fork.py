"""What a virtual machine's guest agent is told right after a fork, before the desktop is given out."""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

ENTROPY_BYTES: Final = 64
"""Fresh bytes for one fork. The kernel's generator takes 32; twice that costs nothing."""


class AfterFork(BaseModel):
    """A fork wakes at its template's time, with its template's random state and name; this gives it its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    boot_id: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    """Name of the fork from now on."""
    unix_time_s: Annotated[float, Field(gt=0)]
    entropy_b64: Annotated[str, StringConstraints(min_length=44, max_length=400)]
