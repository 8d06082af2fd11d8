"""Env servers that are ready for the kubelet and leave the operator without an answer."""

import asyncio
from dataclasses import replace

import pytest

from osworld_operator.actions import Action, Assign, Delete, Drain
from osworld_operator.decide import REPLACE_AFTER_S, SILENT_S, decide
from osworld_operator.env_servers import EnvServers, Reports
from osworld_operator.observe import Report
from osworld_operator.view import NodeState, PodView, PoolView

HOLDER = PodView("desks-0", 0, "u0", "1", 1.0, env_idx=0, epoch=4, is_ready=True, address="10.0.0.1")
SPARE = PodView("desks-1", 1, "u1", "1", 2.0, is_ready=True, address="10.0.0.2")


def decided(*pods: PodView, replicas: int = 1, revision: str = "") -> list[Action]:
    return decide(PoolView(replicas=replicas, spares=1, revision=revision, pods=pods))


def silent(pod: PodView, seconds: float) -> PodView:
    return replace(pod, silent_s=seconds)


def test_its_env_idx_moves_after_a_while_and_not_before() -> None:
    assert decided(silent(HOLDER, SILENT_S - 1), SPARE) == []
    late = silent(HOLDER, SILENT_S)
    assert decided(late, SPARE) == [Assign(SPARE, 0, late)]


def test_it_is_replaced_in_the_end() -> None:
    lost = silent(replace(HOLDER, env_idx=None, epoch=0), REPLACE_AFTER_S)
    assert Delete(lost) in decided(lost, replace(SPARE, env_idx=0, epoch=5))


def test_a_spare_that_answers_goes_first_and_one_that_is_silent_for_long_not_at_all() -> None:
    down = replace(HOLDER, is_ready=False, is_down=True)
    younger = replace(SPARE, name="desks-2", slot=2, uid="u2", created_s=3.0)
    assert Assign(younger, 0, down) in decided(down, silent(SPARE, 30.0), younger)
    assert not any(isinstance(action, Assign) for action in decided(down, silent(SPARE, SILENT_S)))


@pytest.mark.parametrize("change", [{"replicas": 0}, {"revision": "new"}])
def test_nobody_waits_for_its_consent_to_go(change: dict[str, str | int]) -> None:
    late = silent(replace(HOLDER, env_idx=1 if "replicas" in change else 0), SILENT_S)
    view = PoolView(replicas=1, spares=0, revision=str(change.get("revision", "")), pods=(late,))
    view = replace(view, replicas=int(change.get("replicas", 1)), max_unavailable=1)
    actions = decide(view)
    assert Delete(late) in actions
    assert not any(isinstance(action, Drain) for action in actions)


class Scripted(EnvServers):
    """Answers as it is told."""

    def __init__(self) -> None:
        self.answer: Report | None = None
        self.epochs: list[int] = []

    async def state(self, address: str, uid: str, token: str, epoch: int) -> Report | None:
        self.epochs.append(epoch)
        return self.answer

    drain = state


async def test_silence_lasts_from_the_first_question_without_an_answer_to_the_next_answer() -> None:
    servers = Scripted()
    async with asyncio.TaskGroup() as tasks:
        reports = Reports(servers, tasks, lambda: None)
        reports.refresh({HOLDER: False}, "t", 1)
        await asyncio.sleep(0)
        first = reports.heard.silent_s["u0"]
        reports.drain(HOLDER, "t", 1)
        await asyncio.sleep(0)
        assert reports.heard.silent_s["u0"] > first, "the first unanswered question counts"
        servers.answer = Report(is_busy=False, is_drained=True)
        reports.drain(HOLDER, "t", 1)
        await asyncio.sleep(0)
        assert reports.heard.silent_s == {}


async def test_the_silence_of_a_pod_that_is_not_ready_does_not_count() -> None:
    async with asyncio.TaskGroup() as tasks:
        reports = Reports(Scripted(), tasks, lambda: None)
        reports.refresh({HOLDER: False}, "t", 1)
        await asyncio.sleep(0)
        reports.refresh({replace(HOLDER, is_ready=False): False}, "t", 1)
        assert reports.heard.silent_s == {}


async def test_a_pod_without_an_env_idx_is_told_that_its_epoch_is_over() -> None:
    servers = Scripted()
    servers.answer = Report(is_busy=True, is_drained=False)
    released = replace(HOLDER, env_idx=None, epoch=0)
    async with asyncio.TaskGroup() as tasks:
        reports = Reports(servers, tasks, lambda: None)
        reports.refresh({HOLDER: False}, "t", 8)
        await asyncio.sleep(0)
        assert not reports.is_unfenced(HOLDER)
        assert reports.is_unfenced(released)
        reports.refresh({released: False}, "t", 9)
        await asyncio.sleep(0)
        assert not reports.is_unfenced(released)
        reports.forget_all_but([HOLDER])
        assert reports.is_unfenced(released), "it had another one meanwhile"
    assert servers.epochs == [HOLDER.epoch, 9]


DOUBTED = replace(HOLDER, node=NodeState.DOUBTED, node_name="n0", is_ready=False)
"""Lost for Kubernetes, while its env server answers."""


def test_an_env_server_that_answers_keeps_its_env_idx_whatever_its_node_is_for_kubernetes() -> None:
    assert decided(DOUBTED, SPARE) == []
    assert decided(DOUBTED, SPARE, revision="new") == [], "nor is anything replaced for a new spec meanwhile"
    lost = replace(DOUBTED, node=NodeState.LOST)
    assert Assign(SPARE, 0, lost) in decided(lost, SPARE)


def test_it_is_asked_before_it_goes_and_gets_nothing_new() -> None:
    assert decided(DOUBTED, SPARE, replicas=0) == [Drain(DOUBTED)]
    ended = replace(DOUBTED, is_terminating=True)
    assert Drain(ended) in decided(ended, SPARE)
    down, spare = replace(HOLDER, is_ready=False, is_down=True), replace(SPARE, node=NodeState.DOUBTED)
    assert not any(isinstance(action, Assign) for action in decided(down, spare))


async def test_one_question_without_an_answer_is_enough_for_a_pod_of_a_lost_node() -> None:
    told: list[None] = []
    async with asyncio.TaskGroup() as tasks:
        reports = Reports(Scripted(), tasks, lambda: told.append(None))
        reports.refresh({DOUBTED: True}, "t", 1)
        await asyncio.sleep(0)
        assert told == [None], "a move waits for it"
        reports.refresh({DOUBTED: True}, "t", 1)
        assert "u0" in reports.heard.silent_s
        assert reports.heard.doubted_s.keys() == {"u0"}
        reports.forget_all_but([])
        assert reports.heard.doubted_s == {}
