"""Played by `test_cli_client` in a network of its own, where a server can be lost without a word."""

from concurrent.futures import ThreadPoolExecutor

import psutil

from chaos.own_network import light, no_network
from osworld_contract.names import HEADER_IDEMPOTENCY_KEY
from osworld_env import EnvClient
from osworld_env.connections import LOST_MS
from service.test_cli_client import HANG, Scripted, reply, running
from waiting import wait_until

NOTICED_S = LOST_MS / 1000 + 40.0


def is_connected(server: Scripted) -> bool:
    """Return whether this process believes in a connection to `server`."""
    port = server.server_address[1]
    connections = psutil.Process().net_connections("tcp")
    return any(each.raddr and each.raddr.port == port and each.status == "ESTABLISHED" for each in connections)


def test_a_server_that_is_lost_without_a_word_is_asked_again() -> None:
    light()
    with ThreadPoolExecutor(1) as thread, running() as server, EnvClient(server.url) as client:
        server.replies = [(200, reply()), (HANG, ""), (200, reply())]
        client.reset({"instruction": "x"})
        step = thread.submit(client.step, "a")
        wait_until(lambda: len(server.seen) == 2, NOTICED_S, "the step")
        with no_network():
            wait_until(lambda: not is_connected(server), NOTICED_S, "the client gives the connection up")
        assert step.result(NOTICED_S).is_done
    [_, first, again] = [headers.get(HEADER_IDEMPOTENCY_KEY) for _, headers, _ in server.seen]
    assert first == again is not None
