"""What the operator knows of nodes, from lists and from a watch that goes on meanwhile."""

import asyncio
from typing import Any, cast

import pytest

from osworld_operator import nodes as nodes_module
from osworld_operator.api import Api
from osworld_operator.cluster import Cluster
from osworld_operator.nodes import NodeBook
from osworld_operator.view import NodeState
from played_api import PlayedApi

NODES = "/api/v1/nodes"


class SlowApi(PlayedApi):
    """Answers with what was there when it was asked, once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def call(self, *given: Any, **more: Any) -> Any:
        found = await super().call(*given, **more)
        self.asked.set()
        await self.may_answer.wait()
        return found


def node(name: str, ready: str = "True", *taints: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints]},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


def book(api: PlayedApi, *names: str) -> NodeBook:
    for name in names:
        api.put(f"{NODES}/{name}", node(name))
    return NodeBook(Cluster(cast(Api, api), lambda: None))


async def test_what_the_watch_tells_during_a_list_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "LIST_AGAIN_S", 0.0)
    api = SlowApi()
    api.may_answer.set()
    known = book(api, "n0", "n1", "n2")
    await known.refresh()
    api.may_answer.clear()
    api.asked.clear()
    task = asyncio.create_task(known.refresh())
    await asyncio.wait_for(api.asked.wait(), 5)
    assert known.see(node("n0", "Unknown"), is_gone=False)
    assert known.see(node("n1"), is_gone=True)
    assert known.see(node("n3"), is_gone=False)
    api.may_answer.set()
    await asyncio.wait_for(task, 5)
    assert known.states == {"n0": NodeState.LOST, "n2": NodeState.SOUND, "n3": NodeState.SOUND}
    assert known.for_pods({"containers": []}) == {"n2", "n3"}


async def test_a_list_finds_what_the_watch_has_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "LIST_AGAIN_S", 0.0)
    api = PlayedApi()
    known = book(api, "n0", "n1")
    await known.refresh()
    known.see(node("n0", "Unknown"), is_gone=False)
    del api.objects[f"{NODES}/n1"]
    await known.refresh()
    assert known.states == {"n0": NodeState.SOUND}


async def test_keepers_that_start_together_list_once() -> None:
    api = SlowApi()
    known = book(api, "n0")
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        for _ in range(5):
            tasks.create_task(known.refresh())
        await api.asked.wait()
        api.may_answer.set()
    assert api.calls == [("GET", NODES)]


async def test_a_node_under_pressure_is_left_where_there_is_another_one() -> None:
    api = PlayedApi()
    known = book(api, "n0", "n1", "n2")
    await known.refresh()
    known.see(node("n0", "True", "node.kubernetes.io/disk-pressure"), is_gone=False)
    known.see(node("n1", "Unknown"), is_gone=False)
    hosts = known.for_pods({"containers": []})
    assert hosts == {"n2"}
    assert known.states_for(hosts) == {"n0": NodeState.LEAVING, "n1": NodeState.LOST, "n2": NodeState.SOUND}
    elsewhere = known.for_pods({"containers": [], "nodeSelector": {"kvm": "yes"}})
    assert known.states_for(elsewhere)["n0"] is NodeState.SOUND, "the pool would have no node left"
