"""What a guest can reach: itself. Not this machine's loopback, no env server, no router, no other virtual machine."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from desktop_probe import desktop_processes
from osworld_contract.names import GUEST_SERVER_PORT
from osworld_env.ports import free_port
from osworld_envpod.desktops.qemu.argv import QEMU
from router_rig import running_router
from server_process import ServerProcess, clean_environment
from vm_fixtures import START_DEADLINE_S, TEST_TIMEOUT_S, VirtualMachine

pytestmark = pytest.mark.timeout(TEST_TIMEOUT_S)

GATEWAY, NAME_SERVER = "10.0.2.2", "10.0.2.3"
"""QEMU's own: without ``restrict`` the first one leads to this machine's loopback."""

OUTSIDE = ("1.1.1.1", 443)
ATTEMPT_S = 20
"""For one connection of a guest under emulation; one to itself takes a fraction of a second."""


async def test_a_guest_reaches_no_neighbour_no_env_server_no_router_and_nothing_on_this_machine(
    machine: VirtualMachine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (
        _neighbour(tmp_path_factory.mktemp("neighbour")) as server,
        running_router(tmp_path_factory.mktemp("router")) as router,
        _listener() as (stream, datagram),
    ):
        await asyncio.to_thread(server.wait_ready, deadline_s=START_DEADLINE_S)
        ports = [stream.getsockname()[1], machine.desktop.addresses.server_port, router.port, *_ports(server.pid)]
        assert server.port in ports
        assert len(ports) >= 1 + 1 + 1 + 1 + 4, "listener, own forward, router, env server, the neighbour's four"
        for port in ports:  # all of them answer on this machine, so what a guest does not reach is kept from it
            socket.create_connection(("127.0.0.1", port), ATTEMPT_S).close()
        with socket.socket(type=socket.SOCK_DGRAM) as sending:
            sending.sendto(b"x", datagram.getsockname())
        stream.accept()[0].close()
        assert datagram.recv(1) == b"x"

        hosts = [GATEWAY, NAME_SERVER, *_own_addresses()]
        itself = ("127.0.0.1", GUEST_SERVER_PORT)
        targets = [itself, OUTSIDE, *((host, port) for host in hosts for port in ports)]
        assert await machine.output(_attempts(targets, datagram.getsockname()[1])) == (
            f"reached 127.0.0.1 {GUEST_SERVER_PORT}\n"
        )

        for listening, read in ((stream, stream.accept), (datagram, lambda: datagram.recv(1))):
            listening.setblocking(False)
            with pytest.raises(BlockingIOError):  # nothing has come
                read()


def _attempts(targets: Sequence[tuple[str, int]], datagram_port: int) -> str:
    """Return a script that tries all of `targets` at once and prints those it reached."""
    tries = [
        f"(timeout {ATTEMPT_S} bash -c '</dev/tcp/{host}/{port}' 2>/dev/null && echo reached {host} {port}) &"
        for host, port in targets
    ]
    hosts = {host for host, _ in targets} - {"127.0.0.1"}
    datagrams = [f"(echo x > /dev/udp/{host}/{datagram_port}) 2>/dev/null;" for host in sorted(hosts)]
    return "\n".join((*tries, *datagrams, "wait"))


def _neighbour(folder: Path) -> ServerProcess:
    """Return an env server with a virtual machine of its own."""
    port = free_port()
    variables = {"PROVIDER": "qemu", "OSWORLD_PORT": str(port)}
    return ServerProcess("osworld_envpod", folder, clean_environment(**variables), port)


@contextlib.contextmanager
def _listener() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give a TCP and a UDP socket that take whatever comes to any address of this machine."""
    with socket.create_server(("0.0.0.0", 0)) as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
        datagram.bind(("0.0.0.0", 0))
        yield stream, datagram


def _ports(server_pid: int) -> list[int]:
    """Return the TCP ports on which an env server and its virtual machines listen."""
    return sorted(
        {
            connection.laddr.port
            for process in (psutil.Process(server_pid), *desktop_processes(server_pid, QEMU))
            for connection in process.net_connections("tcp4")
            if connection.status == psutil.CONN_LISTEN
        }
    )


def _own_addresses() -> list[str]:
    """Return this machine's IPv4 addresses on its networks."""
    return [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ]
