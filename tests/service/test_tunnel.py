"""`osworld-env tunnel` with a real ssh and a real sshd."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from chaos.own_network import play_in_own_network
from osworld_env.ports import free_port
from sshd import Sshd, Tunnel, answers
from waiting import wait_until

UP_DEADLINE_S = 40.0
INNER_DEADLINE_S = 100.0


class Health(BaseHTTPRequestHandler):
    """Answers as an env server's health does, for the one field that is asked here."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"kvm_available":true}')

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(port: int = 0) -> Iterator[int]:
    """Answer on `port` of loopback, or on one that is free, and give it."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Health)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def local_port() -> Iterator[int]:
    with serving() as port:
        yield port


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    folder = tmp_path / "sshd"
    folder.mkdir()
    with Sshd(folder) as running:
        yield running


def arguments(sshd: Sshd, local_port: int, remote_port: int, *more: str) -> tuple[str, ...]:
    ports = ("--local-port", str(local_port), "--remote-port", str(remote_port))
    return ("cluster", *ports, "--ssh-config", str(sshd.ssh_config), *more)


def health(port: int) -> bool:
    try:
        return bool(httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).json()["kvm_available"])
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("more", [(), ("--via", "vm")], ids=["direct", "via"])
def test_the_cluster_reaches_the_env_server(tmp_path: Path, sshd: Sshd, local_port: int, more: tuple[str, ...]) -> None:
    remote_port = free_port()
    with Tunnel(tmp_path, arguments(sshd, local_port, remote_port, *more)) as tunnel:
        wait_until(lambda: health(remote_port), UP_DEADLINE_S, "the health reply through the tunnel")
        wait_until(lambda: f"up: port {remote_port} of cluster leads to" in tunnel.log, UP_DEADLINE_S, "what is said")
    assert not answers(remote_port)


def test_a_lost_connection_comes_back(tmp_path: Path, sshd: Sshd, local_port: int) -> None:
    remote_port = free_port()
    with Tunnel(tmp_path, arguments(sshd, local_port, remote_port)) as tunnel:
        wait_until(lambda: health(remote_port), UP_DEADLINE_S, "the health reply through the tunnel")
        sshd.end()
        wait_until(lambda: "trying again in 2 s" in tunnel.log, UP_DEADLINE_S, "a second try")
        sshd.start()
        wait_until(lambda: health(remote_port), UP_DEADLINE_S, "the health reply through the tunnel's next connection")


def test_a_port_that_is_taken_is_said(tmp_path: Path, sshd: Sshd, local_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Tunnel(tmp_path, arguments(sshd, local_port, port)) as tunnel:
            assert f"port {port} of cluster is taken" in tunnel.ended()


def test_an_unknown_host_key_is_said(tmp_path: Path, sshd: Sshd, local_port: int) -> None:
    sshd.known_hosts.unlink()
    with Tunnel(tmp_path, arguments(sshd, local_port, free_port())) as tunnel:
        assert "the host key of cluster is not known here: run `ssh cluster true` once" in tunnel.ended()


def test_a_changed_host_key_is_said(tmp_path: Path, sshd: Sshd, local_port: int) -> None:
    sshd.end()
    sshd.make_key("host_key")
    sshd.start()
    with Tunnel(tmp_path, arguments(sshd, local_port, free_port())) as tunnel:
        assert "the host key of cluster is not the one known here" in tunnel.ended()


def test_a_refused_key_is_said(tmp_path: Path, sshd: Sshd, local_port: int) -> None:
    (sshd.folder / "user_key.pub").write_text("")
    with Tunnel(tmp_path, arguments(sshd, local_port, free_port())) as tunnel:
        assert "cluster refuses this user's keys" in tunnel.ended()


def test_a_tunnel_leads_to_what_listens(tmp_path: Path) -> None:
    play_in_own_network(Path(__file__).with_name("tunnel_ports.py"), tmp_path, INNER_DEADLINE_S)


def test_a_unit_starts_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "my_config").write_text("Host cluster\n")
    with Tunnel(tmp_path, ("cluster", "--ssh-config=my_config", "--local-port", "15001", "--print-unit")) as tunnel:
        assert tunnel.process.wait(UP_DEADLINE_S) == 0
    [start] = [line for line in tunnel.log.splitlines() if line.startswith("ExecStart=")]
    assert start.partition(" -m osworld_env ")[2] == (
        "tunnel cluster --remote-port 15001 --remote-address 127.0.0.1 --local-port 15001 "
        f"--ssh-config {tmp_path}/my_config"
    )
