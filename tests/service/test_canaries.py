"""Episodes of known score on an idle env server, with a real desktop, whole and broken."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server_process import ServerProcess, env_server
from tasks_of import RENAME, task_config
from waiting import wait_until

pytestmark = pytest.mark.timeout(300)
"""A pair of episodes takes 15 s, and a desktop is waited for."""

SEEN_S = 90.0

PREEMPT_S = 1.0
MADE_ROOM = "The canaries made room after "


def count(server: ServerProcess, canary: str, result: str) -> int:
    text = httpx.get(server.url + "/metrics").text
    found = re.search(rf'osworld_canaries_total{{canary="{canary}",result="{result}"}} ([0-9.]+)', text)
    return int(float(found[1])) if found else 0


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[ServerProcess]:
    """An env server that asks its canaries all the time, and is idle a second after an episode."""
    with env_server(tmp_path, OSWORLD_CANARY_EVERY_S="0.1", OSWORLD_IDLE_TIMEOUT_S="1") as server:
        yield server.wait_ready()


def test_a_whole_desktop_scores_both_right_and_nobody_counts_them(asked: ServerProcess) -> None:
    wait_until(lambda: count(asked, "oracle", "right") >= 2, SEEN_S, "two oracles")
    assert count(asked, "no_op", "right") >= 2
    metrics = httpx.get(asked.url + "/metrics").text
    assert "osworld_canary_failed 0.0" in metrics and "osworld_episodes_total{" not in metrics
    noise = re.search(r"osworld_canary_noise_pixels ([0-9.e+]+)", metrics)
    assert noise is not None and float(noise[1]) < 2_000, noise
    assert httpx.get(asked.url + "/state").json()["fault"] is None


def preempted(server: ServerProcess) -> int:
    return count(server, "no_op", "preempted") + count(server, "oracle", "preempted")


def canary_share_s(server: ServerProcess, moment: str) -> float:
    """Reset in the middle of a canary, once the log says `moment`; return how long the canary took to make room."""
    before, waits, begun = preempted(server), server.log.count(MADE_ROOM), server.log.count(moment)
    wait_until(lambda: server.log.count(moment) > begun, SEEN_S, f"canaries: {moment}")
    reply = httpx.post(server.url + "/env/reset", json={"task_config": task_config(RENAME)}, timeout=SEEN_S)
    assert reply.status_code == 200 and len(reply.json()["obs_messages"]) == 3
    assert preempted(server) == before + 1
    assert httpx.post(server.url + "/env/evaluate", json={}, timeout=SEEN_S).json() == 0.0
    assert server.log.count(MADE_ROOM) == waits + 1
    return float(server.log.rpartition(MADE_ROOM)[2].split()[0])


def test_a_reset_goes_first_and_within_a_second(asked: ServerProcess) -> None:
    """Other work on this machine adds to a wait and takes nothing from it: the least of three counts."""
    for moment in ("The canaries begin", "Reset OK", "step_parse: ok"):
        shares_s: list[float] = []
        while len(shares_s) < 3 and not any(share_s <= PREEMPT_S for share_s in shares_s):
            shares_s.append(canary_share_s(asked, moment))
        assert min(shares_s) <= PREEMPT_S, (moment, shares_s)


def test_a_desktop_that_scores_wrong_takes_no_more_episodes(tmp_path: Path) -> None:
    """The desktop's `cat` says nothing: evaluators read files by it."""
    server = env_server(tmp_path, OSWORLD_CANARY_EVERY_S="1")
    server.wrap("unshare", "--mount", "sh", "-c", 'mount --bind /bin/true /bin/cat && exec "$@"', "sh")
    with server:
        wait_until(lambda: "No more episodes here" in server.log, SEEN_S, "the verdict")
        assert httpx.get(server.url + "/readyz").status_code == 503
        assert httpx.get(server.url + "/state").json()["fault"]["reason"] == "canary_wrong"
        reply = httpx.post(server.url + "/env/reset", json={"task_config": task_config(RENAME)}, timeout=SEEN_S)
        assert (reply.status_code, reply.json()["fault"]["reason"]) == (503, "canary_wrong")
        assert count(server, "oracle", "wrong") == 1, "the first wrong score is one too many"
