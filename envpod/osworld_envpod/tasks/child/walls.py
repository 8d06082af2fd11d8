"""The walls around a worker without a sandbox: around the zygote from its start, and closer ones around each runner.

A runner is behind one more wall than the zygote, so it can neither trace it nor send it a signal.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from . import landlock, syscalls


@dataclass(frozen=True)
class Walls:
    """What is left open."""

    read: tuple[str, ...]
    write: tuple[str, ...]
    ports: tuple[int, ...]
    """TCP ports beyond the guest's."""

    def around_zygote(self) -> dict[str, Any]:
        """Put up the outer wall, and return what the kernel has of it.

        Raises:
            OSError: The kernel has Landlock and refused.
        """
        version = landlock.version()
        if version:
            landlock.restrict(self.read, self.write, None)
        return {"landlock": version, "seccomp": syscalls.refuse_what_evaluators_do_not_need()}

    def around_runner(self, addresses: dict[str, Any]) -> None:
        """Put up the inner wall: of TCP only the guest's ports and those that are open to all.

        Raises:
            OSError: As above.
        """
        guests = [value for name, value in addresses.items() if name.endswith("_port")]
        if landlock.version():
            landlock.restrict(self.read, self.write, sorted({*self.ports, *guests}))


def parse(text: str) -> Walls:
    """Return the walls that the env server asks for, as JSON."""
    given = json.loads(text)
    return Walls(**{field.name: tuple(given[field.name]) for field in dataclasses.fields(Walls)})
