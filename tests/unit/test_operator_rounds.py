"""A keeper's rounds over an API server that is played: what stays from one to the next."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from osworld_operator import keeper as keeper_module
from osworld_operator import nodes as nodes_module
from osworld_operator.api import Api
from osworld_operator.children import ChildSettings
from osworld_operator.cluster import Cluster
from osworld_operator.env_servers import EnvServers
from osworld_operator.errors import ClusterError, RefusedError
from osworld_operator.keeper import PoolKeeper, Tools
from osworld_operator.metrics import OperatorMetrics
from osworld_operator.nodes import NodeBook
from played_api import PlayedApi
from pools import pool
from waiting import wait_for

ENV = "/apis/osworld.dev/v1alpha1/namespaces/default/osworldenvs/desks"
PODS = "/api/v1/namespaces/default/pods"
SECRET = "/api/v1/namespaces/default/secrets/desks-tokens"
WAIT_S = 20


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> PlayedApi:
    """An API server whose refusals are tried again at once."""
    monkeypatch.setattr(keeper_module, "REFUSED_S", 0.05)
    return PlayedApi()


@contextlib.asynccontextmanager
async def kept(api: PlayedApi) -> AsyncIterator[PoolKeeper]:
    """Keep the pool during the block, and until its OSWorldEnv is gone."""
    cluster = Cluster(cast(Api, api), lambda: None)
    servers = EnvServers()
    children = ChildSettings("env:1", "desktop:1", "router:1", "system")
    keeper = PoolKeeper("default", "desks", Tools(cluster, servers, NodeBook(cluster), children, OperatorMetrics()))
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper
        del api.objects[ENV]
        keeper.wake()
        async with asyncio.timeout(WAIT_S):
            await task
    finally:
        task.cancel()
        await servers.close()


def apply(api: PlayedApi, uid: str = "env-1", generation: int = 1, **spec: Any) -> None:
    """Apply the OSWorldEnv; another `uid` is another one of that name."""
    body = pool(**spec)
    before = api.objects.get(ENV)
    status = before["status"] if before and before["metadata"]["uid"] == uid else {}
    api.put(ENV, {**body, "status": status, "metadata": {**body["metadata"], "uid": uid, "generation": generation}})


def degraded(api: PlayedApi) -> tuple[str, str]:
    """Return status and reason of the condition Degraded."""
    for item in api.objects[ENV].get("status", {}).get("conditions", ()):
        if item["type"] == "Degraded":
            return item["status"], item["reason"]
    return "", ""


def owners(api: PlayedApi, kind: str) -> list[str]:
    """Return the uids of what the objects of a kind belong to."""
    return [each["metadata"]["ownerReferences"][0]["uid"] for each in api.of(kind)]


def collect(api: PlayedApi, *kinds: str) -> None:
    """Remove what belongs to an object that is gone, as the garbage collector does, of these kinds."""
    present = api.objects[ENV]["metadata"]["uid"]
    for kind in kinds:
        for path, each in list(api.objects.items()):
            if each in api.of(kind) and each["metadata"]["ownerReferences"][0]["uid"] != present:
                del api.objects[path]


async def test_a_refusal_is_over_once_nothing_refused_is_wanted(api: PlayedApi) -> None:
    """A quota refuses a pod, and the pool is scaled down to fit: no pod is asked for any more."""

    def quota(method: str, path: str) -> ClusterError | None:
        is_full = method == "POST" and path == PODS and len(api.of("pods")) == 2
        return RefusedError("exceeded quota: few", 403) if is_full else None

    api.refuse = quota
    apply(api, replicas=3, spares=0)
    async with kept(api) as keeper:
        await wait_for(lambda: degraded(api) == ("True", "PodRefused"), WAIT_S, "the quota in a condition")
        refused = api.calls.count(("POST", PODS))
        await wait_for(lambda: api.calls.count(("POST", PODS)) >= refused + 3, WAIT_S, "further tries")
        apply(api, generation=2, replicas=2, spares=0)
        keeper.wake()
        await wait_for(lambda: degraded(api) == ("False", "AsExpected"), WAIT_S, "nothing is refused any more")
    reasons = [event["reason"] for event in api.of("events")]
    assert reasons == ["PodRefused", "AsExpected"], "it did not flap between tries"


async def test_another_object_of_that_name_gets_all_that_belongs_to_it(api: PlayedApi) -> None:
    """It is seen in the place of the one before, at the same generation, and its pods are not there yet."""
    apply(api, replicas=1, spares=0)
    async with kept(api) as keeper:
        await wait_for(lambda: owners(api, "pods") == owners(api, "deployments") == ["env-1"], WAIT_S, "the first one")
        apply(api, uid="env-2", replicas=1, spares=0)
        collect(api, "secrets", "deployments")
        keeper.wake()
        await wait_for(lambda: owners(api, "deployments") == ["env-2"], WAIT_S, "a router of the second one")
        assert owners(api, "secrets") == ["env-2"]
        await wait_for(lambda: owners(api, "pods") == ["env-1", "env-2"], WAIT_S, "its pod beside the old one")


async def test_tokens_that_go_with_the_object_before_are_not_used(api: PlayedApi) -> None:
    apply(api, replicas=1, spares=0)
    async with kept(api) as keeper:
        await wait_for(lambda: owners(api, "pods") == ["env-1"], WAIT_S, "the first one")
        apply(api, uid="env-2", replicas=1, spares=0)
        keeper.wake()
        seen = len(api.calls)
        await wait_for(lambda: ("GET", SECRET) in api.calls[seen:], WAIT_S, "a look at the tokens")
        assert owners(api, "deployments") == ["env-1"]
        collect(api, "secrets")
        await wait_for(lambda: owners(api, "deployments") == ["env-2"], WAIT_S, "a router of the second one")
        assert owners(api, "secrets") == ["env-2"]


async def test_a_name_that_somebody_elses_pod_has_is_named_and_not_asked_for_in_a_loop(api: PlayedApi) -> None:
    reference = {"kind": "StatefulSet", "name": "desks", "uid": "set-1", "controller": True}
    api.put(f"{PODS}/desks-0", {"metadata": {"ownerReferences": [reference]}})
    apply(api, replicas=1, spares=0)
    async with kept(api):
        await wait_for(lambda: degraded(api) == ("True", "PodRefused"), WAIT_S, "the name in a condition")
        said = str(api.objects[ENV]["status"]["conditions"])
    assert "the name desks-0 is taken by a pod of StatefulSet desks" in said


async def test_an_env_server_that_cannot_start_is_named_once(api: PlayedApi) -> None:
    """It ends, waits and runs in turns: for the pool nothing changes."""
    said = "ERROR osworld_envpod: the image has another sha256"
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": said}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    running: dict[str, Any] = {"running": {}}
    apply(api, replicas=1, spares=0)
    async with kept(api) as keeper:
        await wait_for(lambda: api.of("pods"), WAIT_S, "a pod")
        start(api, running, {})
        keeper.wake()
        await wait_for(lambda: degraded(api) == ("False", "AsExpected"), WAIT_S, "a pod that comes up")
        for state in (ended, waiting, running, ended, waiting, running):
            start(api, state, ended if state is not ended else {})
            await two_rounds(keeper)
            assert degraded(api) == ("True", "PodsFailing")
        condition = next(item for item in api.objects[ENV]["status"]["conditions"] if item["type"] == "Degraded")
        assert said in condition["message"]
    assert [event["reason"] for event in api.of("events")] == ["PodsFailing"]


async def test_a_pool_that_has_no_other_node_stays_on_one_under_pressure(
    api: PlayedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes_module, "LIST_AGAIN_S", 0.0)
    is_ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    taint = {"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}
    api.put("/api/v1/nodes/n0", {"metadata": {}, "spec": {"taints": [taint]}, "status": is_ready})
    apply(api, replicas=1, spares=0)
    async with kept(api) as keeper:
        await wait_for(lambda: api.of("pods"), WAIT_S, "a pod")
        start(api, {"running": {}}, {})
        (pod,) = api.of("pods")
        pod["spec"]["nodeName"] = "n0"
        await two_rounds(keeper)
        assert api.of("pods") == [pod]
        api.put("/api/v1/nodes/n1", {"metadata": {}, "status": is_ready})
        keeper.wake()
        await wait_for(lambda: pod not in api.of("pods"), WAIT_S, "it goes where there is another node")


async def two_rounds(keeper: PoolKeeper) -> None:
    """Wait for the end of a round that has begun after now: one may be under way."""
    for _ in range(2):
        await a_round(keeper)


async def a_round(keeper: PoolKeeper) -> None:
    before = keeper.last_round_s
    keeper.wake()
    await wait_for(lambda: keeper.last_round_s > before, WAIT_S, "a round")


def start(api: PlayedApi, state: dict[str, Any], before: dict[str, Any]) -> None:
    """Be the kubelet: the pod's container ``server`` is in this state."""
    began = "2027-01-15T08:00:00Z"
    server = {"name": "server", "state": state, "lastState": before}
    conditions = [{"type": "Ready", "status": "False", "lastTransitionTime": began}]
    path = next(path for path in api.objects if path.startswith(f"{PODS}/"))
    status = {"phase": "Running", "startTime": began, "conditions": conditions, "containerStatuses": [server]}
    api.put(path, {**api.objects[path], "status": status})
