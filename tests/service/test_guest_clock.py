"""The clock of a guest that stood still, of both kinds, against one whose clock is what the test says."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.desktops.base import GuestAddresses
from osworld_envpod.desktops.guest_clock import DRIFT_MAX_S, correct_guest_clock
from task_parts import Handler, guest_at, http_server

DEADLINE_S = 10.0
NAME = "a" * 32
PASSWORD = "pa'ss word"
TOLERANCE_S = 2.0
KINDS = pytest.mark.parametrize("has_agent", [True, False], ids=["own", "osworld"])


@dataclass
class Clock:
    """A guest's clock, and who set it."""

    ahead_s: float
    is_stuck: bool = False
    refusal: str = ""
    set_by: list[str] = field(default_factory=list)

    def answer(self, handler: Handler) -> bool:
        """Answer as our agent or as OSWorld's server, by the path."""
        asked = json.loads(handler.body or b"{}")
        if handler.path == "/execute":
            handler.answer(200, self._executed(asked["command"]))
            return True
        if handler.path == "/agent/after_fork":
            if self.refusal:
                handler.answer(500, {"status": "error", "message": self.refusal})
                return True
            self._set(asked["boot_id"], asked["unix_time_s"])
        screen = {"width": 1920, "height": 1080}
        shown = time.time() + self.ahead_s
        handler.answer(200, {"version": 1, "boot_id": NAME, "unix_time_s": shown, "screen": screen, "ready": True})
        return True

    def _executed(self, command: list[str]) -> dict[str, object]:
        result: dict[str, object] = {"output": "", "error": "", "returncode": 0}
        if command[0] == "date":
            shown = f"{time.time() + self.ahead_s:.9f}"
            return result | {"output": shown if command[1] == "+%s.%N" else shown.split(".", maxsplit=1)[0]}
        if self.refusal:
            return result | {"error": self.refusal, "returncode": 1}
        assert command[-3:-1] == ["date", "-s"]
        self._set(command[3], float(command[-1].removeprefix("@")))
        return result

    def _set(self, by: str, unix_time_s: float) -> None:
        self.set_by.append(by)
        if not self.is_stuck:
            self.ahead_s = unix_time_s - time.time()


@contextmanager
def _guest(clock: Clock, *, has_agent: bool) -> Iterator[GuestAddresses]:
    with http_server(clock.answer) as port:
        yield replace(guest_at(port), has_agent=has_agent)


@KINDS
@pytest.mark.parametrize("ahead_s", [-DRIFT_MAX_S - 1, DRIFT_MAX_S + 5, -86_400.0])
async def test_a_clock_that_is_far_off_is_stepped_once(ahead_s: float, *, has_agent: bool) -> None:
    clock = Clock(ahead_s)
    with _guest(clock, has_agent=has_agent) as addresses:
        await correct_guest_clock(addresses, PASSWORD, DEADLINE_S)
    assert abs(clock.ahead_s) < TOLERANCE_S
    assert clock.set_by == [NAME if has_agent else PASSWORD], "a fork keeps its name"


@KINDS
@pytest.mark.parametrize("ahead_s", [-DRIFT_MAX_S + 5, 0.0, DRIFT_MAX_S - 5])
async def test_a_clock_that_is_not_far_off_is_left_alone(ahead_s: float, *, has_agent: bool) -> None:
    clock = Clock(ahead_s)
    with _guest(clock, has_agent=has_agent) as addresses:
        await correct_guest_clock(addresses, PASSWORD, DEADLINE_S)
    assert (clock.ahead_s, clock.set_by) == (ahead_s, [])


@KINDS
@pytest.mark.parametrize(
    ("clock", "words"),
    [
        (Clock(-420.0, refusal="no such socket"), r"-420 s off and could not be set: .*no such socket"),
        (Clock(-420.0, is_stuck=True), "it was set, and is off again"),
    ],
)
async def test_a_clock_that_cannot_be_stepped_is_a_fault(clock: Clock, words: str, *, has_agent: bool) -> None:
    with _guest(clock, has_agent=has_agent) as addresses, pytest.raises(FaultError, match=words) as caught:
        await correct_guest_clock(addresses, PASSWORD, DEADLINE_S)
    assert caught.value.fault.reason is FaultReason.ACTION_FAILED


@KINDS
async def test_a_clock_that_cannot_be_read_is_a_fault(*, has_agent: bool) -> None:
    def refuse(handler: Handler) -> bool:
        handler.answer(500, {"message": "no"})
        return True

    with http_server(refuse) as port:
        addresses = replace(guest_at(port), has_agent=has_agent)
        with pytest.raises(FaultError) as caught:
            await correct_guest_clock(addresses, PASSWORD, DEADLINE_S)
    assert caught.value.fault.masked
