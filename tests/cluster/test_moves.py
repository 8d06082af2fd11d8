"""Moves on a router's request: real router, real operator, and the API server's word for who asks. KWOK plays pods."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.control_plane import ControlPlane
from cluster.env_servers import PlayedEnvServers, played_env_servers
from cluster.move_wishes import ask, holder, token
from cluster.operator_rig import CONVERGE_S, Operator, Pool, operator, watched
from cluster.watching_router import WatchingRouter, watching_router
from waiting import wait_until

HEDGE_AFTER_S = 1.0
IN_TIME_S = 10.0
"""A reset that hangs is given up after `HEDGE_AFTER_S` and answered by a spare: a second or two on an idle machine."""


@pytest.fixture(scope="module")
def servers(plane: ControlPlane) -> Iterator[PlayedEnvServers]:
    with played_env_servers(plane) as running:
        yield running


@pytest.fixture(scope="module")
def running(plane: ControlPlane, servers: PlayedEnvServers) -> Iterator[Operator]:
    with operator(plane) as process:
        yield process


@pytest.fixture
def pool(plane: ControlPlane, namespace: str, running: Operator) -> Iterator[Pool]:
    found = Pool(plane, namespace)
    found.apply(replicas=2, spares=1, router={"replicas": 1})
    found.wait_whole(2, 1)
    yield found
    plane.kubectl("delete", "owe", "--all", "-n", namespace, "--wait=false")


@pytest.fixture
def router(pool: Pool, running: Operator, tmp_path: Path) -> Iterator[WatchingRouter]:
    """The pool's router with no more than its own service account."""
    config = json.loads(pool.plane.kubeconfig.read_text())
    config["users"][0]["user"]["token"] = token(pool, audience="")
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    (tmp_path / "token").write_text(token(pool))
    with watching_router(
        tmp_path / "kubeconfig",
        pool.namespace,
        tmp_path,
        OSWORLD_UPSTREAM_TOKEN="between-us",
        OSWORLD_ROUTER_HEDGE_AFTER_S=str(HEDGE_AFTER_S),
        OSWORLD_ROUTER_MOVE_URL=f"http://127.0.0.1:{running.port}/pools/{pool.namespace}/{pool.name}",
        OSWORLD_ROUTER_MOVE_TOKEN_FILE=str(tmp_path / "token"),
    ) as process:
        wait_until(lambda: set(process.envs()) == {0, 1}, CONVERGE_S, "both envs at the router")
        yield process


def reset(router: WatchingRouter, idx: int) -> httpx.Response:
    body: dict[str, Any] = {"task_config": {}}
    return httpx.post(f"{router.url}/envs/{idx}/env/reset", json=body, timeout=60, trust_env=False)


def test_a_reset_that_hangs_is_answered_by_a_spare_and_its_pod_replaced(
    pool: Pool, router: WatchingRouter, servers: PlayedEnvServers
) -> None:
    before, other = pool.pod(0), pool.pod(1)
    servers.freeze(before)
    with watched(pool.plane, pool) as seen:
        reply = reset(router, 0)
        assert reply.status_code == 200, reply.text
        assert reply.elapsed.total_seconds() < IN_TIME_S
        after = pool.pod(0)
        assert servers.resets[-2:] == [before["metadata"]["uid"], after["metadata"]["uid"]]
        assert 'osworld_router_hedges_total{result="moved"} 1.0' in router.get("/metrics").text
        pool.wait_whole(2, 1)
    assert before["metadata"]["uid"] not in {pod["metadata"]["uid"] for pod in pool.pods()}, "it was no spare again"
    assert pool.pod(1)["metadata"]["uid"] == other["metadata"]["uid"]
    assert not seen.double
    events = pool.plane.kubectl("get", "events", "-n", pool.namespace, "-o", "json")
    said = [item["message"] for item in json.loads(events)["items"] if item["reason"] == "EnvMoved"]
    assert any("a router's reset hung or was lost there" in message for message in said), said


def test_routers_that_ask_for_the_same_get_the_same(pool: Pool, running: Operator) -> None:
    wish, shown = holder(pool), token(pool)
    first = ask(running, pool, shown, wish)
    assert first.status_code == 200, first.text
    entry = first.json()
    assert entry["env_idx"] == 0 and entry["uid"] != wish["from_uid"] and entry["epoch"] > wish["epoch"]
    assert entry["uid"] == pool.pod(0)["metadata"]["uid"]
    assert ask(running, pool, shown, wish).json() == entry
    labels = f'namespace="{pool.namespace}",pool="desks",result="ok"'
    assert f"osworld_operator_moves_total{{{labels}}} 2.0" in running.metrics()


def test_without_a_spare_nothing_moves(pool: Pool, running: Operator) -> None:
    pool.apply(replicas=2, spares=0, router={"replicas": 1})
    pool.wait_whole(2, 0)
    wish = holder(pool)
    reply = ask(running, pool, token(pool), wish)
    assert (reply.status_code, reply.json()) == (503, {"detail": "there is no spare"})
    assert holder(pool) == wish


def test_nobody_but_the_pools_router_is_heard(pool: Pool, running: Operator) -> None:
    wish = holder(pool)
    pool.plane.kubectl("create", "serviceaccount", "other-router", "-n", pool.namespace)
    for bearer, status in (
        ("", 401),
        ("not-a-token", 401),
        (token(pool, audience=""), 401),
        (token(pool, audience="somebody-else"), 401),
        (token(pool, "other-router"), 403),
        (token(pool, "default"), 403),
    ):
        assert ask(running, pool, bearer, wish).status_code == status
    for body, idx, status in (({"from_uid": "x"}, "0", 422), (wish, "first", 404), ({"x": "x" * 9000}, "0", 413)):
        assert ask(running, pool, token(pool), body, idx).status_code == status
    assert holder(pool) == wish
    assert "Traceback" not in running.log.read_text()
