"""A desktop whose machines boot for each episode: what belongs to a reset and what goes on without it."""

import asyncio
from typing import cast

import pytest

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_envpod.desktops.base import DesktopFacts, DesktopState
from osworld_envpod.desktops.osworld import BootedDesktop
from osworld_envpod.desktops.osworld.machine import Machine
from osworld_envpod.settings import load_settings


class FakeMachine:
    """A machine without a process."""

    def __init__(self, number: int) -> None:
        self.id = f"m{number}"
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def is_alive(self) -> bool:
        return not self.ended.done()

    async def end(self) -> None:
        if not self.ended.done():
            self.ended.set_result("it was ended")


class FakeBooter:
    """Boots whatever the test lets it boot: one item of `gates` for each."""

    facts = DesktopFacts("docker", "tcg", can_pause=False, can_fork=False, root="real")
    boot_deadline_s = 2400.0
    prepare_deadline_s = 0.0

    def __init__(self, *, has_one_machine: bool = False) -> None:
        self.has_one_machine = has_one_machine
        self.machines: list[FakeMachine] = []
        self.gates: asyncio.Queue[FaultError | None] = asyncio.Queue()
        self.began = 0

    async def prepare(self) -> None:
        """Need nothing."""

    async def close(self) -> None:
        """Have nothing."""

    async def boot(self) -> Machine:
        self.began += 1
        if (failure := await self.gates.get()) is not None:
            raise failure
        self.machines.append(FakeMachine(len(self.machines)))
        return cast(Machine, self.machines[-1])

    def let(self, *outcomes: FaultError | None) -> None:
        for outcome in outcomes:
            self.gates.put_nowait(outcome)


def broken() -> FaultError:
    return fault_error(FaultReason.GUEST_TIMEOUT, "no screen")


async def started(booter: FakeBooter, spares: int = 1) -> BootedDesktop:
    booter.let(None)
    desktop = BootedDesktop(booter, spares)
    await desktop.start(5)
    return desktop


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_machine_is_booted_ahead_and_taken() -> None:
    booter = FakeBooter()
    desktop = await started(booter)
    booter.let(None)
    await settle()
    assert (desktop.machine_id, booter.began) == ("m0", 2)
    await desktop.revert(5)
    assert desktop.machine_id == "m1"
    assert not booter.machines[0].is_alive
    await settle()
    assert booter.began == 3
    await desktop.stop(5)
    assert [machine.is_alive for machine in booter.machines] == [False, False]


async def test_a_reset_that_gives_up_leaves_the_boot_to_the_next() -> None:
    booter = FakeBooter()
    desktop = await started(booter, spares=0)
    with pytest.raises(FaultError, match=r"still booting.*2400 s") as refused:
        await desktop.revert(0.01)
    assert (refused.value.fault.retryable, desktop.state) == (True, DesktopState.FAILED)
    booter.let(None)
    await desktop.revert(5)
    assert (desktop.machine_id, booter.began) == ("m1", 2)
    await desktop.stop(5)


async def test_a_reset_that_is_cancelled_leaves_the_boot_too() -> None:
    booter = FakeBooter()
    desktop = await started(booter, spares=0)
    reset = asyncio.create_task(desktop.revert(100))
    await settle()
    reset.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reset
    booter.let(None)
    await desktop.revert(5)
    assert booter.began == 2
    await desktop.stop(5)


async def test_a_spare_that_failed_or_ended_is_made_up_for() -> None:
    booter = FakeBooter()
    desktop = await started(booter)
    booter.let(broken())
    await settle()
    booter.let(None)
    await desktop.revert(5)
    assert desktop.machine_id == "m1"
    booter.let(None)
    await settle()
    booter.machines[2].ended.set_result("the engine was restarted")
    booter.let(None)
    await desktop.revert(5)
    assert desktop.machine_id == "m3"
    await desktop.stop(5)


async def test_a_boot_that_fails_is_the_resets_fault() -> None:
    booter = FakeBooter()
    desktop = await started(booter, spares=0)
    booter.let(broken())
    with pytest.raises(FaultError, match="no screen"):
        await desktop.revert(5)
    assert desktop.state is DesktopState.FAILED
    await desktop.stop(5)


async def test_a_machine_that_ends_fails_the_desktop() -> None:
    booter = FakeBooter()
    desktop = await started(booter, spares=0)
    booter.machines[0].ended.set_result("killed")
    await settle()
    assert desktop.state is DesktopState.FAILED
    await desktop.stop(5)


async def test_a_machine_that_cannot_stand_still_is_not_asked_for_its_time() -> None:
    desktop = await started(FakeBooter(), spares=0)
    await desktop.correct_clock(5)  # its guest would have no address
    await desktop.stop(5)


async def test_the_only_machine_is_given_up_before_its_next_boot() -> None:
    booter = FakeBooter(has_one_machine=True)
    desktop = await started(booter)
    await settle()
    assert booter.began == 1
    booter.let(None)
    await desktop.revert(5)
    assert desktop.machine_id == "m1"
    await desktop.stop(5)


async def test_a_start_that_fails_ends_what_boots() -> None:
    booter = FakeBooter()
    desktop = BootedDesktop(booter, 1)
    with pytest.raises(FaultError, match=r"still booting|not ready"):
        await desktop.start(0.01)
    booter.let(None)
    await settle()
    assert (booter.machines, desktop.state) == ([], DesktopState.FAILED)


def test_a_reset_has_longer_where_it_may_wait_for_a_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines = {}
    for provider in ("", "docker", "xvfb", "qemu"):
        monkeypatch.setenv("PROVIDER", provider)
        deadlines[provider] = load_settings().reset_timeout_s
    assert deadlines == {"": 1080, "docker": 1080, "xvfb": 360, "qemu": 360}
    monkeypatch.setenv("PROVIDER", "docker")
    monkeypatch.setenv("OSWORLD_RESET_TIMEOUT_S", "500")
    assert load_settings().reset_timeout_s == 500
