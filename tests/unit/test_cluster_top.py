"""What ``pool top`` shows first, and what it counts; whom ``pool drain`` means."""

from typing import Any

import pytest

from osworld_contract.crd import OSWorldEnv
from osworld_env.cluster.drain import choose
from osworld_env.cluster.top import by_interest, head_text, steps_between, steps_of
from osworld_env.cluster.view import EnvRow
from osworld_env.errors import GoneError


def row(idx: int | None, state: str, since: float | None = 0.0, fault: str | None = None, step: int = 1) -> EnvRow:
    task = "t" if state == "running" else None
    return EnvRow(idx, f"pod-{idx}", "n0", 1, state, task, step if task else None, since, fault)


def test_trouble_comes_first_then_what_has_lasted_longest() -> None:
    rows = [row(0, "idle", 5.0), row(1, "running", 3.0), row(2, "faulted", 9.0, "infra/disk_full"), row(3, "x", None)]
    assert [item.env_idx for item in by_interest(rows)] == [2, 1, 0, 3]


def test_the_head_counts_states_and_says_what_is_not_known() -> None:
    pool = OSWorldEnv.model_validate(
        {"metadata": {"name": "desks"}, "spec": {"replicas": 3, "desktop": {"provider": "xvfb"}}}
    )
    text = head_text(pool, [row(0, "running"), row(1, "running"), row(2, "idle")], 1.25, "no router")
    assert text.splitlines()[1:] == ["2 running, 1 idle; 1.2 actions/s", "note: episodes are not known: no router"]


def test_actions_are_counted_over_episodes_that_go_on_begin_and_begin_anew() -> None:
    before = steps_of([row(0, "running", step=3), row(1, "running", step=9), row(2, "idle")])
    after = steps_of([row(0, "running", step=5), row(1, "running", step=1), row(2, "running", step=4)])
    assert steps_between(before, after) == 2 + 1 + 4


def pod(name: str, idx: int | None, node: str) -> dict[str, Any]:
    labels = {} if idx is None else {"osworld.dev/env-idx": str(idx)}
    return {"metadata": {"name": name, "uid": name, "labels": labels}, "spec": {"nodeName": node}}


PODS = [pod("a", 0, "n0"), pod("b", 1, "n1"), pod("c", None, "n1")]


def names(env_idxs: list[int], pods: list[str], nodes: list[str]) -> list[str]:
    return [item["metadata"]["name"] for item in choose(PODS, env_idxs, pods, nodes)]


def test_each_pod_that_is_meant_is_drained_once() -> None:
    assert names([1], ["b", "a"], ["n1"]) == ["b", "a", "c"]


@pytest.mark.parametrize("what", [([7], [], []), ([], ["x"], []), ([0], [], ["n9"])])
def test_one_that_is_not_there_is_named(what: tuple[list[int], list[str], list[str]]) -> None:
    with pytest.raises(GoneError, match="the pool has no pod"):
        names(*what)
