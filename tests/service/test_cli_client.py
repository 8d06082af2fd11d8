"""The client against servers that are not as they should be: real HTTP on loopback."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from chaos.own_network import play_in_own_network
from osworld_contract.faults import FaultBody, FaultError, FaultReason, fault_error
from osworld_contract.names import HEADER_CLIENT, HEADER_IDEMPOTENCY_KEY, HEADER_SEEN
from osworld_env import EnvClient

DROP = 0
"""A status that stands for: close the connection without a reply."""
HANG = -1
"""A status that stands for: say nothing until the server ends."""
INNER_DEADLINE_S = 100.0


class Scripted(ThreadingHTTPServer):
    """Answers each call with the next of its replies, and remembers what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[tuple[int, str]] = []
        self.seen: list[tuple[str, dict[str, str], str]] = []
        self.is_over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """One call."""

    server: Scripted

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.server.seen.append((self.path, dict(self.headers), body))
        status, text = self.server.replies.pop(0)
        if status == HANG:
            self.server.is_over.wait()
        if status in (DROP, HANG):
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def running() -> Iterator[Scripted]:
    """Answer while the block runs."""
    scripted = Scripted()
    thread = threading.Thread(target=scripted.serve_forever, args=(0.05,))
    thread.start()
    yield scripted
    scripted.is_over.set()
    scripted.shutdown()
    thread.join(10)
    scripted.server_close()


@pytest.fixture
def server() -> Iterator[Scripted]:
    with running() as scripted:
        yield scripted


def reply(**fields: object) -> str:
    return json.dumps({"env_idx": 0, "obs_messages": None, "is_done": True, "format_reward": 0.0} | fields)


def test_calls_say_who_asks_and_each_step_has_a_key_of_its_own(server: Scripted) -> None:
    server.replies = [(200, reply()), (200, reply()), (200, reply())]
    with EnvClient(server.url.replace("http://", "http://job:t0ken@"), env_idx=2) as client:
        client.reset({"instruction": "x"})
        client.step("a")
        client.step("a", since=3)
    paths = [path for path, _, _ in server.seen]
    assert paths == ["/envs/2/env/reset", "/envs/2/env/step", "/envs/2/env/step?since=3"]
    headers = [{name.lower(): value for name, value in seen.items()} for _, seen, _ in server.seen]
    assert all(seen[HEADER_CLIENT.lower()] == "v2" and seen["authorization"].startswith("Basic ") for seen in headers)
    keys = [seen[HEADER_IDEMPOTENCY_KEY.lower()] for seen in headers[1:]]
    assert len(set(keys)) == 2
    assert json.loads(server.seen[0][2]) == {"task_config": {"instruction": "x"}}


def test_a_200_with_a_fault_is_raised(server: Scripted) -> None:
    fault = fault_error(FaultReason.DESKTOP_LOST, operation="step").fault
    server.replies = [(200, reply(fault=fault.model_dump(mode="json")))]
    with EnvClient(server.url) as client, pytest.raises(FaultError) as caught:
        client.step("a")
    assert caught.value.fault == fault


def test_an_error_status_with_a_fault_is_raised(server: Scripted) -> None:
    fault = fault_error(FaultReason.NO_EPISODE).fault
    server.replies = [(503, FaultBody.of(fault).model_dump_json())]
    with EnvClient(server.url) as client, pytest.raises(FaultError) as caught:
        client.evaluate()
    assert caught.value.fault == fault


@pytest.mark.parametrize("text", ['{"score": 1}', "true", '"1.0"', "null", "", "[]"])
def test_what_is_no_number_is_no_score(server: Scripted, text: str) -> None:
    server.replies = [(200, text)]
    with EnvClient(server.url) as client, pytest.raises(FaultError):
        client.evaluate()


@pytest.mark.parametrize(("text", "score"), [("1", 1.0), ("0.0", 0.0), ("0.25", 0.25)])
def test_a_number_is_a_score(server: Scripted, text: str, score: float) -> None:
    server.replies = [(200, text)]
    with EnvClient(server.url) as client:
        assert client.evaluate() == score


def test_a_dropped_connection_is_a_masked_fault(server: Scripted) -> None:
    server.replies = [(DROP, "")]
    with EnvClient(server.url) as client, pytest.raises(FaultError) as caught:
        client.step("a")
    assert caught.value.fault.reason is FaultReason.ENV_DOWN
    assert caught.value.fault.masked


def test_a_page_of_a_proxy_is_a_fault(server: Scripted) -> None:
    server.replies = [(200, "<html>log in</html>"), (502, "<html>Bad gateway</html>")]
    with EnvClient(server.url) as client:
        for _ in range(2):
            with pytest.raises(FaultError):
                client.reset({})


def test_a_connection_that_breaks_later_is_tried_again_under_the_same_key(server: Scripted) -> None:
    server.replies = [(200, reply()), (DROP, ""), (DROP, ""), (200, reply()), (DROP, ""), (200, "1.0")]
    with EnvClient(server.url) as client:
        client.reset({"instruction": "x"})
        client.step("a")
        assert client.evaluate() == 1.0
    assert [path for path, _, _ in server.seen] == ["/env/reset", *["/env/step"] * 3, *["/env/evaluate"] * 2]
    steps = {headers[HEADER_IDEMPOTENCY_KEY] for _, headers, _ in server.seen[1:4]}
    assert len(steps) == 1
    assert {headers[HEADER_SEEN] for _, headers, _ in server.seen[4:]} == steps


def test_a_server_that_is_lost_without_a_word_is_asked_again(tmp_path: Path) -> None:
    """As a node that loses its power: no packet says so, and the call has minutes left."""
    play_in_own_network(Path(__file__).with_name("lost_server.py"), tmp_path, INNER_DEADLINE_S)


def test_an_evaluate_after_a_failed_step_claims_nothing(server: Scripted) -> None:
    broken = FaultBody.of(fault_error(FaultReason.DESKTOP_LOST).fault).model_dump_json()
    server.replies = [(200, reply()), (500, broken), (200, "0.0")]
    with EnvClient(server.url) as client:
        client.reset({"instruction": "x"})
        with pytest.raises(FaultError):
            client.step("a")
        client.evaluate()
    assert HEADER_SEEN not in server.seen[-1][1]
