"""Routers that ask each other: what one of them may have told a client is no score, and no replay, at another."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lost_episodes import SCORE, TASK, journal_of, lose, playing
from osworld_contract.names import HEADER_SEEN, HEADER_UNSEEN
from osworld_contract.replay import REPLAY_PATH
from osworld_contract.wire import Phase
from router_rig import STEP_REPLY, Received, Router, ScriptedEnv, answering, fault_of, running_router, whole
from waiting import wait_for

EVALUATE = "/env/evaluate"


@dataclass
class Peer:
    """Another router, which says what a test has it say."""

    started: float = 0.0
    """On the monotonic clock, as the next."""
    told: float | None = None
    """When it told the client of env 0 something."""
    failed: list[int] = field(default_factory=list)
    latency_s: float = 0.0
    """How long it takes to make its answer."""

    async def script(self, request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.latency_s)
        now = time.monotonic()
        idle_s = {} if self.told is None else {"0": now - self.told}
        says = {"router": "another", "up_s": now - self.started, "idle_s": idle_s, "failed": self.failed}
        await answering(whole(json.dumps(says).encode()))(request, writer)


@dataclass(frozen=True)
class Pool:
    """A router, the other one that it knows, and env 0."""

    router: Router
    peer: Peer
    env: ScriptedEnv

    async def begin(self) -> None:
        """Play a reset and a step of an episode."""
        assert (await self.router.post("/env/reset", TASK)).status_code == 200
        assert (await self.router.post("/env/step")).content == STEP_REPLY


@asynccontextmanager
async def beside(folder: Path, peer: Peer) -> AsyncIterator[Pool]:
    async with ScriptedEnv(peer.script) as other, ScriptedEnv(playing()) as env:
        url = f"http://127.0.0.1:{other.port}"
        with running_router(folder, OSWORLD_ROUTER_PEERS=url, OSWORLD_ROUTER_RETRY_S="0") as router:
            await router.route(env.entry())
            yield Pool(router, peer, env)


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    async with beside(tmp_path, Peer()) as running:
        yield running


async def test_a_failure_that_was_told_later_is_seen_however_long_the_answer_takes(pool: Pool) -> None:
    await pool.begin()
    pool.peer.told, pool.peer.failed, pool.peer.latency_s = time.monotonic(), [0], 0.5
    assert fault_of(await pool.router.post(EVALUATE)) == (503, "reply_lost")
    assert EVALUATE not in [call.path for call in pool.env.calls]


async def test_a_failure_before_the_last_reply_changes_no_score(pool: Pool) -> None:
    pool.peer.told, pool.peer.failed = time.monotonic(), [0]
    await pool.begin()
    assert (await pool.router.post(EVALUATE)).content == SCORE
    assert not pool.env.calls[-1].all(HEADER_UNSEEN)


@pytest.mark.parametrize("is_silent", [False, True])
async def test_where_nobody_knows_a_score_is_for_an_episode_that_is_over_and_has_none(
    tmp_path: Path, is_silent: bool
) -> None:
    """A router may have been asked for a reset, or have failed in one, that nobody knows of any more."""
    peer = Peer()
    async with beside(tmp_path, peer) as pool:
        await pool.begin()
        peer.started, peer.latency_s = time.monotonic(), 30.0 if is_silent else 0.0
        for phase in Phase:
            pool.env.script = playing(phase=phase)
            assert (await pool.router.post(EVALUATE)).content == SCORE
            is_unseen = pool.env.calls[-1].all(HEADER_UNSEEN) == ["1"]
            assert is_unseen is (phase not in (Phase.DONE, Phase.EVALUATING)), phase
        assert (await pool.router.post(EVALUATE, headers={HEADER_SEEN: "r"})).content == SCORE
        assert not pool.env.calls[-1].all(HEADER_UNSEEN), "the client says what it has seen"


@pytest.mark.parametrize(("is_younger", "refused"), [(False, False), (True, True)])
async def test_a_router_that_started_since_may_have_gone_on(tmp_path: Path, is_younger: bool, refused: bool) -> None:
    async with beside(tmp_path, Peer()) as pool, ScriptedEnv(playing()) as heir:
        await lose(pool.router, heir)
        pool.peer.started = time.monotonic() if is_younger else 0.0
        reply = await pool.router.post("/env/step")
        assert [call.path for call in heir.calls] == ([] if refused else [REPLAY_PATH, "/env/step"])
        assert (reply.json().get("fault") is not None) is refused
        assert ("result=another_router" in pool.router.log) is refused


async def test_who_sent_an_evaluate_has_gone_on_with_the_episode(pool: Pool) -> None:
    await pool.begin()
    before = (await pool.router.get("/peers")).json()
    assert 0 < before["idle_s"]["0"] < before["up_s"]
    assert (await pool.router.post(EVALUATE)).content == SCORE
    after = (await pool.router.get("/peers")).json()
    assert after["idle_s"]["0"] - before["idle_s"]["0"] < after["up_s"] - before["up_s"], "it has begun anew"


async def test_what_a_router_has_learnt_as_it_started_is_whole_up_to_then(tmp_path: Path) -> None:
    """Its peer, which has told the client of it before, may have it played again all the same."""
    peer = Peer(told=time.monotonic())
    async with ScriptedEnv(peer.script) as other, ScriptedEnv(playing()) as heir:
        with Router(tmp_path, OSWORLD_ROUTER_PEERS=f"http://127.0.0.1:{other.port}") as router:
            async with ScriptedEnv(playing()) as env:
                env.journal = journal_of("e" * 32, 2, idle_s=100.0)
                router.write(env.entry())
                router.wait_ready()
                await wait_for(lambda: "its episode is known again, 2 steps" in router.log, 20, "the journal")
            await router.route(heir.entry(epoch=2))
            assert (await router.post("/env/step")).content == STEP_REPLY
    assert [call.path for call in heir.calls] == [REPLAY_PATH, "/env/step"]
