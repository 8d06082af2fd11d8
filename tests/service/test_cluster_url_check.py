"""``pool url --check`` against real routers and real closed doors."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from osworld_contract.crd import OSWorldEnv
from osworld_contract.registry import Registry, RegistryEntry, write_registry
from osworld_env.cluster.url_check import Finding, Verdict, check_way
from osworld_env.cluster.ways import Way, WayKind
from osworld_env.ports import free_port
from server_process import ServerProcess, clean_environment, env_server

TOKEN = "t0ken-of-the-pool"
UPSTREAM = "t0ken-between-us"
POOL = OSWorldEnv.model_validate(
    {"metadata": {"name": "desks"}, "spec": {"replicas": 1, "desktop": {"provider": "xvfb"}}}
)


@contextmanager
def router(folder: Path, *urls: str) -> Iterator[int]:
    """Run a router over env servers at `urls`; gives its port."""
    envs = tuple(RegistryEntry(env_idx=i, uid=f"u{i}", epoch=1, url=url) for i, url in enumerate(urls))
    write_registry(folder / "registry.json", Registry(envs=envs))
    port = free_port()
    variables = clean_environment(
        OSWORLD_ROUTER_PORT=str(port),
        OSWORLD_REGISTRY_FILE=str(folder / "registry.json"),
        OSWORLD_TOKEN=TOKEN,
        OSWORLD_UPSTREAM_TOKEN=UPSTREAM,
    )
    with ServerProcess("osworld_router", folder, variables, port) as process:
        process.wait_ready()
        yield port


def checked(port: int, token: str = TOKEN, kind: WayKind = WayKind.NODE_PORT) -> Finding:
    return check_way(Way(kind, "127.0.0.1", port), token, POOL)


def test_a_pool_that_works_is_ok(tmp_path: Path) -> None:
    with env_server(tmp_path, OSWORLD_TOKEN=UPSTREAM) as server:
        server.wait_ready()
        with router(tmp_path, server.url) as port:
            assert checked(port).verdict is Verdict.OK


def test_a_wrong_token_is_401(tmp_path: Path) -> None:
    with router(tmp_path) as port:
        assert checked(port, "another").verdict is Verdict.UNAUTHORIZED


@pytest.mark.parametrize("urls", [(), (f"http://127.0.0.1:{free_port()}",)], ids=["no number given", "server dead"])
def test_a_router_without_an_env_that_answers_has_no_ready_env(tmp_path: Path, urls: tuple[str, ...]) -> None:
    with router(tmp_path, *urls) as port:
        finding = checked(port)
    assert finding.verdict is Verdict.NO_READY_ENV
    assert "no operator has seen it yet" in str(finding.hint)


def test_a_port_where_nothing_listens_is_refused_and_a_tunnel_is_named() -> None:
    finding = checked(free_port(), kind=WayKind.TUNNEL)
    assert finding.verdict is Verdict.REFUSED
    assert "the tunnel does not run" in str(finding.hint)


def test_a_port_that_swallows_packets_is_closed_and_named() -> None:
    """A listener whose queue is full drops connection requests, as a security group does."""
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        finding = checked(port)
    assert finding.verdict is Verdict.PORT_CLOSED
    assert f"open TCP port {port}" in str(finding.hint)
