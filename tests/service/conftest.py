"""Fixtures of the service rung: real env servers on real desktops."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from router_rig import V2, Router, ScriptedEnv, routed_env, running_router
from server_process import ServerProcess, env_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """An env server that the tests of a module share; each begins with a reset of its own."""
    with env_server(tmp_path_factory.mktemp("server")) as process:
        yield process.wait_ready()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """An env server for a test that breaks it."""
    with env_server(tmp_path) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A router that sends no call twice."""
    with running_router(tmp_path_factory.mktemp("router"), OSWORLD_ROUTER_RETRY_S="0") as process:
        yield process


@pytest.fixture
async def env(router: Router) -> AsyncIterator[ScriptedEnv]:
    """An env server behind the router that answers as a test scripts it."""
    async with routed_env(router) as scripted:
        assert (await router.post("/env/reset", headers=V2)).status_code == 200, "what a test before left is forgotten"
        scripted.received.clear()
        yield scripted
