"""What commands show: the live table, durations, doctor's verdicts."""

import io

from rich.console import Console

from osworld_contract.faults import FaultReason, fault_error
from osworld_contract.wire import DesktopStatus, EnvState, Phase
from osworld_env.doctor import blockers
from osworld_env.keeper import KeeperState
from osworld_env.live_table import ago, live_table
from osworld_env.machine_check import XvfbCheck, verdict_of
from osworld_env.machine_probes import Finding, Level
from osworld_env.pool import EnvView


def _rendered(*views: EnvView) -> str:
    console = Console(width=200, file=io.StringIO())
    with console.capture() as capture:
        console.print(live_table("pool", views, now=1000.0))
    return capture.get()


def test_the_table_shows_phase_step_and_fault() -> None:
    state = EnvState(
        phase=Phase.FAULTED,
        since=935.0,
        episode_id="e",
        task_id="t",
        step=4,
        predictions=3,
        is_draining=False,
        desktop=DesktopStatus(provider="xvfb", state="failed"),
        fault=fault_error(FaultReason.DESKTOP_LOST, "[red]gone[/], password=secret1").fault,
    )
    text = _rendered(EnvView(0, 1, 77, 4001, KeeperState.READY, state))
    for part in ("77", "4001", "faulted", "4", "1 min 05 s", "xvfb failed", "infra/desktop_lost: [red]gone[/]"):
        assert part in text
    assert "secret1" not in text


def test_an_env_that_does_not_answer_is_shown_with_what_is_known() -> None:
    text = _rendered(
        EnvView(0, 1, 77, 4001, KeeperState.READY, None),
        EnvView(1, 1, None, 4002, KeeperState.RESTARTING, None),
        EnvView(None, 0, 79, 4003, KeeperState.READY, None),
    )
    assert "no answer" in text
    assert "restarting" in text
    assert "spare" in text


def test_durations() -> None:
    assert [ago(seconds) for seconds in (-1, 59.9, 61, 7384)] == ["0 s", "59 s", "1 min 01 s", "2 h 03 min"]


def test_what_stands_in_the_way_of_xvfb_is_said() -> None:
    verdict = verdict_of(XvfbCheck(ok=False, problems=["install xvfb", "install bubblewrap"], notes=["no browser"]))
    assert not verdict.can_run
    assert verdict.reason == "install xvfb; install bubblewrap"
    assert verdict.notes == ("no browser",)
    assert verdict_of(XvfbCheck(ok=True)).can_run


def test_only_what_is_missing_blocks() -> None:
    findings = [Finding(level, level, "") for level in Level]
    assert blockers(findings) == [Finding("missing", Level.MISSING, "")]
