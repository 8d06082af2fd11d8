"""The interface of a desktop: its states, its facts, its addresses. No provider's own code belongs here."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from osworld_contract.faults import FaultReason


class DesktopState(StrEnum):
    """Where a desktop is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    REVERTING = "reverting"
    PAUSED = "paused"
    FAILED = "failed"
    """A start or revert failed, or the desktop ended by itself; `revert` or `stop` leads out."""


AcceleratorFact = Literal["none", "kvm", "tcg"]


@dataclass(frozen=True)
class DesktopFacts:
    """What a desktop can do, and what it is made of. Shown in ``/state`` and ``/health``."""

    provider: str
    accelerator: AcceleratorFact
    """``none`` where it is no virtual machine, or one of a hypervisor that is neither."""
    can_pause: bool
    can_fork: bool
    root: Literal["real", "emulated"]
    """``emulated``: ``sudo`` runs its command as the user."""
    image_digest: str | None = None
    network: Literal["none", "open"] = "open"
    """``none``: nothing in the desktop can reach beyond it. Only then is a lost episode played again unasked."""
    proof: Literal["agent", "marks", "screen"] = "agent"
    """What shows that a reset left nothing. ``agent``: ours looks at files, processes and clipboard. ``marks``: a fork
    finds no mark of another one in its memory or on its disk, and shows a screen; OSWorld's server tells no more.
    ``screen``: a new machine or container shows one."""


@dataclass(frozen=True)
class GuestAddresses:
    """Where the guest's ports are reached from this process and from the task worker."""

    host: str
    server_port: int
    chromium_port: int
    vlc_port: int
    vnc_port: int
    server_socket: Path | None = None
    """A Unix socket that leads to the guest agent with one hop less than the port; None where there is none."""
    has_agent: bool = True
    """Our own agent serves the guest wire there, not OSWorld's server: it has paths beyond OSWorld's."""


Setup = Callable[[GuestAddresses, float], Awaitable[str]]
"""Sets a task up on the desktop at the addresses, in the seconds given. Returns why the state that it made must not
serve again, empty where it may."""


class TaskState(Enum):
    """How a desktop came to the state of a task."""

    NONE = "none"
    """It did not: nothing was done to it."""
    SET_UP = "set up"
    """The setup was run, on it or on the desktop that it was forked from."""
    FORKED = "forked"
    """From one that was set up before, by whichever env server."""


class Desktop(ABC):
    """One desktop. An async context manager: entering starts it, leaving stops it.

    Every method takes the seconds it may use. All raise `FaultError` with an ``infra`` reason on failure, after which
    the state is FAILED, and `RuntimeError` on a move that the state does not allow.
    """

    @property
    @abstractmethod
    def state(self) -> DesktopState:
        """Return the state. READY turns to FAILED by itself when the desktop's processes end."""

    @property
    def lost_to(self) -> FaultReason | None:
        """Return why the desktop cannot go on, where that is known better than by what its callers see."""
        return None

    @property
    @abstractmethod
    def facts(self) -> DesktopFacts:
        """Return what this desktop can do."""

    @property
    @abstractmethod
    def addresses(self) -> GuestAddresses:
        """Return the guest's addresses; valid until the next revert or stop.

        Raises:
            RuntimeError: The desktop is neither READY nor PAUSED.
        """

    @abstractmethod
    async def start(self, deadline_s: float) -> None:
        """Go from STOPPED to READY: up, proven clean, screen drawn."""

    @abstractmethod
    async def revert(self, deadline_s: float) -> None:
        """Go from any state but STOPPED and STARTING to READY, with nothing left of before, processes included."""

    async def revert_to_task(self, key: str, setup: Setup, deadline_s: float) -> TaskState:
        """Go to READY as `revert` does, with the task `key` set up by `setup`, or by an earlier one of that key.

        NONE where the provider cannot do it, or not for this task: the desktop is as it was then.
        """
        return TaskState.NONE

    async def pause(self, deadline_s: float) -> None:  # noqa: B027 - doing nothing is right where the facts say so
        """Go from READY to PAUSED, where the provider can; else do nothing."""

    async def resume(self, deadline_s: float) -> None:  # noqa: B027 - as pause
        """Go from PAUSED to READY, where the provider can; else do nothing."""

    async def correct_clock(self, deadline_s: float) -> None:  # noqa: B027 - right where it has ours, or never stands still
        """Step the clock of a READY desktop to ours, where pauses have left it far behind."""

    @abstractmethod
    async def stop(self, deadline_s: float) -> None:
        """Go to STOPPED from any state; can run twice. Leaves no process, port or file."""

    @property
    @abstractmethod
    def start_deadline_s(self) -> float:
        """Return the seconds that a start of this provider may take."""

    async def __aenter__(self) -> Self:
        await self.start(self.start_deadline_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(STOP_DEADLINE_S)


STOP_DEADLINE_S = 20.0
"""A guess with room: an xvfb desktop ends in well under a second."""
