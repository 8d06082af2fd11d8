"""A keeper's rounds, where the API server or our own code lets it down."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from osworld_operator import keeper
from osworld_operator.children import ChildSettings
from osworld_operator.cluster import Cluster
from osworld_operator.env_servers import EnvServers
from osworld_operator.errors import ClusterError, ConflictError, UnavailableError
from osworld_operator.handlers import Keepers
from osworld_operator.keeper import PoolKeeper, Tools
from osworld_operator.metrics import OperatorMetrics
from osworld_operator.nodes import NodeBook


class LeavingCluster(Cluster):
    """Has no pool; while a keeper asks for the first time, another one of that name is applied."""

    def __init__(self) -> None:
        self.fence = lambda: None
        self.looks = 0
        self.apply_again: Callable[[], None] = lambda: None

    async def env(self, namespace: str, name: str) -> dict[str, Any] | None:
        self.looks += 1
        if self.looks == 1:
            self.apply_again()
        return None


class FailingCluster(Cluster):
    """Fails with each of `errors` in turn, then says that the pool is gone."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.fence = lambda: None

    async def env(self, namespace: str, name: str) -> dict[str, Any] | None:
        if self._errors:
            raise self._errors.pop(0)
        return None


async def results(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> dict[str, float]:
    """Return how many rounds had each result, over the life of a pool."""
    for name in ("RETRY_FIRST_S", "RETRY_MAX_S", "GAP_S"):
        monkeypatch.setattr(keeper, name, 0.001)
    cluster, metrics = FailingCluster(*errors), OperatorMetrics()
    seen: dict[str, float] = {}
    monkeypatch.setattr(metrics, "forget", lambda *_: seen.update(_counts(metrics)))
    children = ChildSettings("env:1", "desktop:1", "router:1", "system")
    tools = Tools(cluster, cast(EnvServers, None), NodeBook(cluster), children, metrics)
    async with asyncio.timeout(10):
        await PoolKeeper("train", "desks", tools).run()
    return seen


def _counts(metrics: OperatorMetrics) -> dict[str, float]:
    samples = next(iter(metrics.reconcile_seconds.collect())).samples
    return {item.labels["result"]: item.value for item in samples if item.name.endswith("_count")}


async def test_a_pool_that_is_gone_has_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await results(monkeypatch) == {"ok": 1}


@pytest.mark.parametrize("error", [UnavailableError("away"), ClusterError("odd"), ValueError("a defect of ours")])
async def test_a_round_that_fails_is_made_again(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    assert await results(monkeypatch, error, error) == {"failed": 2, "ok": 1}


async def test_a_conflict_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await results(monkeypatch, ConflictError("changed")) == {"conflict": 1, "ok": 1}


async def test_a_pool_that_comes_back_while_its_keeper_leaves_is_kept() -> None:
    cluster = LeavingCluster()
    children = ChildSettings("env:1", "desktop:1", "router:1", "system")
    tools = Tools(cluster, cast(EnvServers, None), NodeBook(cluster), children, OperatorMetrics())
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        keepers = Keepers(tools, tasks)
        cluster.apply_again = lambda: keepers.see_env("train", "desks")
        keepers.see_env("train", "desks")
    assert cluster.looks == 2
    assert not keepers.all
