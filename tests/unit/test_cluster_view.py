"""Rows and tables of a pool's envs, from pods as the API server sends them."""

from typing import Any

from rich.console import Console
from rich.table import Table

from osworld_contract.crd import OSWorldEnv
from osworld_contract.faults import FaultReason, fault_error
from osworld_contract.wire import DesktopStatus, EnvState, Phase
from osworld_env.cluster.tables import condition_line, envs_table, pools_table
from osworld_env.cluster.view import env_rows

MADE = "2026-01-01T00:00:00Z"
READY_AT = "2026-01-01T00:01:00Z"
MADE_S = 1767225600.0


def pool(replicas: int = 2, **status: Any) -> OSWorldEnv:
    return OSWorldEnv.model_validate(
        {
            "metadata": {"name": "desks", "namespace": "lab"},
            "spec": {"replicas": replicas, "desktop": {"provider": "xvfb"}},
            "status": status,
        }
    )


def pod(name: str, idx: int | None = None, *, epoch: int = 1, ready: bool = True, **head: Any) -> dict[str, Any]:
    labels = {} if idx is None else {"osworld.dev/env-idx": str(idx), "osworld.dev/env-epoch": str(epoch)}
    condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": READY_AT}
    return {
        "metadata": {"name": name, "creationTimestamp": MADE, "labels": labels, **head},
        "spec": {"nodeName": "n0"},
        "status": {"phase": "Running", "conditions": [condition]},
    }


def state(phase: Phase, *, is_draining: bool = False, reason: FaultReason | None = None) -> EnvState:
    return EnvState(
        phase=phase,
        since=MADE_S + 90,
        episode_id=None if phase is Phase.IDLE else "e1",
        task_id="os/rename",
        step=4,
        predictions=3,
        is_draining=is_draining,
        desktop=DesktopStatus(provider="xvfb", state="ready"),
        fault=None if reason is None else fault_error(reason, "gone").fault,
    )


def shown(table: Table) -> list[list[str]]:
    console = Console(width=300)
    with console.capture() as capture:
        console.print(table)
    return [line.split() for line in capture.get().splitlines()]


def test_an_episode_is_shown_beside_its_pod() -> None:
    rows = env_rows(pool(1), [pod("desks-0", 0, epoch=7)], {0: state(Phase.RUNNING)})
    assert shown(envs_table(rows, MADE_S + 100))[1] == (
        "0 desks-0 n0 7 running os/rename 4 10 s -".split()  # noqa: SIM905 - as a person reads it
    )


def test_an_idle_env_has_no_task_of_an_episode_before() -> None:
    [row] = env_rows(pool(1), [pod("desks-0", 0)], {0: state(Phase.IDLE)})
    assert (row.state, row.task, row.step) == ("idle", None, None)


def test_a_number_that_no_pod_has_is_a_row_of_its_own() -> None:
    rows = env_rows(pool(2), [pod("desks-1", 1)], {})
    assert [(row.env_idx, row.state, row.is_fine) for row in rows] == [(0, "no pod", False), (1, "ready", True)]


def test_a_number_above_the_replicas_is_shown_until_it_is_gone() -> None:
    assert [row.env_idx for row in env_rows(pool(0), [pod("desks-5", 5)], {})] == [5]


def test_of_two_pods_with_one_number_the_later_has_it() -> None:
    [row] = env_rows(pool(1), [pod("new", 0, epoch=9), pod("old", 0, epoch=2)], {})
    assert row.pod == "new"


def test_pods_without_a_number_come_last_with_what_they_are_at() -> None:
    going = pod("c", deletionTimestamp=READY_AT)
    pending = {"metadata": {"name": "b", "creationTimestamp": MADE}, "status": {"phase": "Pending"}}
    rows = env_rows(pool(0), [going, pending, pod("a")], {})
    assert [(row.pod, row.state) for row in rows] == [("a", "spare"), ("b", "pending"), ("c", "terminating")]


def test_a_pod_that_is_not_ready_is_not_shown_as_running() -> None:
    [row] = env_rows(pool(1), [pod("desks-0", 0, ready=False)], {0: state(Phase.RUNNING)})
    assert (row.state, row.since) == ("not ready", MADE_S + 60)


def test_a_draining_env_says_so() -> None:
    [row] = env_rows(pool(1), [pod("desks-0", 0)], {0: state(Phase.RUNNING, is_draining=True)})
    assert row.state == "draining"


def test_a_fault_of_the_episode_goes_before_the_operators_reason() -> None:
    troubled = [{"pod": "desks-0", "reason": "PodsFailing"}, {"pod": "desks-1", "reason": "NoKVMDevice"}]
    states = {0: state(Phase.FAULTED, reason=FaultReason.GUEST_UNREACHABLE)}
    rows = env_rows(pool(2, troubled=troubled), [pod("desks-0", 0), pod("desks-1", 1, ready=False)], states)
    assert [row.fault for row in rows] == ["infra/guest_unreachable", "NoKVMDevice"]


def test_a_pool_that_nobody_looks_after_says_so() -> None:
    assert condition_line(pool()) == "no operator has seen it yet"


def test_what_is_wrong_with_a_pool_goes_before_what_goes_on() -> None:
    base = {"lastTransitionTime": MADE}
    conditions = [
        {"type": "Ready", "status": "False", "reason": "EnvsNotReady", **base},
        {"type": "Progressing", "status": "True", "reason": "Creating", "message": "2 pods", **base},
        {"type": "Degraded", "status": "True", "reason": "NoKVMDevice", "message": "0/3 nodes", **base},
    ]
    assert condition_line(pool(conditions=conditions)) == "NoKVMDevice: 0/3 nodes"
    assert condition_line(pool(conditions=conditions[:2])) == "Creating: 2 pods"


def test_pools_are_counted_against_what_was_asked_for() -> None:
    line = shown(pools_table([pool(4, ready=3, busy=2, spare=1, faulted=1)], with_namespace=True))[1]
    assert line[:6] == ["lab/desks", "xvfb", "3/4", "2", "1", "1"]
