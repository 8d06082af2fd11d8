"""What operator and router ask env servers, at a real one: only the env server of the pod that is meant may answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from osworld_operator.env_servers import EnvServers
from osworld_operator.observe import Report
from server_process import ServerProcess, env_server

TOKEN = "pool-internal"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
UID = "0f9c2a54-6f4e-4c3e-8a4b-3f1b6f0f0a11"
GONE = "77e0d1c2-0000-4000-8000-000000000000"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with env_server(tmp_path, OSWORLD_UID=UID, OSWORLD_TOKEN=TOKEN) as process:
        yield process.wait_ready()


async def test_a_pod_is_not_drained_in_the_place_of_one_that_had_its_address(server: ServerProcess) -> None:
    servers = EnvServers(server.port)
    try:
        assert await servers.state("127.0.0.1", UID, TOKEN, 1) == Report(is_busy=False, is_drained=False)
        assert await servers.drain("127.0.0.1", GONE, TOKEN, 1) is None
        assert await servers.state("127.0.0.1", GONE, TOKEN, 1) is None, "nor is it thought idle or drained"
        assert await servers.state("127.0.0.1", UID, TOKEN, 1) == Report(is_busy=False, is_drained=False)
        assert await servers.drain("127.0.0.1", UID, TOKEN, 1) == Report(is_busy=False, is_drained=True)
    finally:
        await servers.close()


async def test_a_pod_that_lost_its_env_idx_gives_no_score_to_a_router_that_missed_the_move(
    server: ServerProcess,
) -> None:
    def answer(epoch: int) -> httpx.Response:
        path, headers = f"{server.url}/env/evaluate", {**HEADERS, "X-Osworld-Epoch": str(epoch)}
        return httpx.post(path, json={}, headers=headers)

    servers = EnvServers(server.port)
    try:
        assert answer(4).json()["fault"]["reason"] != "stale_epoch"
        assert await servers.state("127.0.0.1", UID, TOKEN, 5) is not None
        assert (answer(4).status_code, answer(4).json()["fault"]["reason"]) == (421, "stale_epoch")
        assert await servers.state("127.0.0.1", UID, TOKEN, 4) is not None, "whoever comes late may look"
        assert answer(5).json()["fault"]["reason"] != "stale_epoch", "nor is its next env_idx kept from it"
    finally:
        await servers.close()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/state", None),
        ("GET", "/screen", None),
        ("POST", "/drain", None),
        ("POST", "/ack", None),
        ("POST", "/env/reset", {"task_config": {}}),
        ("POST", "/env/step", {"prediction": "x"}),
        ("POST", "/env/evaluate", {}),
        ("POST", "/env/history_messages", {}),
    ],
)
def test_the_refusal_has_a_name(server: ServerProcess, method: str, path: str, body: Any) -> None:
    refused = httpx.request(method, server.url + path, json=body, headers={**HEADERS, "X-Osworld-Uid": GONE})
    assert (refused.status_code, refused.json()["fault"]["reason"]) == (421, "wrong_server")
    assert httpx.get(f"{server.url}/readyz").status_code == 200, "nothing was drained"


def test_a_caller_that_names_nobody_means_whoever_is_there(server: ServerProcess) -> None:
    assert httpx.get(f"{server.url}/state", headers=HEADERS).status_code == 200
