"""Played by `test_tunnel` in a network of its own, where the ports that the tunnel looks at are free."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.own_network import light
from osworld_contract.names import ENV_SERVER_PORT, ROUTER_PORT
from osworld_env.ports import free_port
from service.test_tunnel import UP_DEADLINE_S, health, serving
from sshd import Sshd, Tunnel
from waiting import wait_until


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    light()
    with Sshd(tmp_path) as running:
        yield running


def test_a_tunnel_waits_for_the_router_and_looks_again_after_each_connection(tmp_path: Path, sshd: Sshd) -> None:
    remote_port = free_port()
    with Tunnel(tmp_path, ("cluster", "--remote-port", str(remote_port), "--ssh-config", "ssh_config")) as tunnel:
        wait_until(lambda: "nothing listens on" in tunnel.log, UP_DEADLINE_S, "what is said of no port")
        assert "leads to" not in tunnel.log
        with serving(ROUTER_PORT):
            wait_until(lambda: health(remote_port), UP_DEADLINE_S, "the router's reply through the tunnel")
            assert f"up: port {remote_port} of cluster leads to port {ROUTER_PORT} of" in tunnel.log
        sshd.end()
        with serving(ENV_SERVER_PORT):
            sshd.start()
            wait_until(lambda: health(remote_port), UP_DEADLINE_S, "the env server's reply through the tunnel")
        assert f"up: port {remote_port} of cluster leads to port {ENV_SERVER_PORT} of" in tunnel.log
