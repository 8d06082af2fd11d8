"""What a client tells a router of an episode that nobody else knows any more."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lost_episodes import EPISODE, SCORE, WINDOWS, journal_of, playing
from osworld_contract.names import HEADER_IDEMPOTENCY_KEY, HEADER_SEEN
from osworld_contract.replay import HEADER_SIGHT, JOURNAL_PATH, OWN_JOURNAL_PATH, REPLAY_PATH
from router_rig import STEP_REPLY, V2, Router, ScriptedEnv, fault_of, running_router, whole


def journal(steps: int, **changes: object) -> dict[str, Any]:
    """Return a client's journal of an episode with the key ``r`` and so many steps, ``s0`` and on."""
    document: dict[str, Any] = json.loads(journal_of(EPISODE, steps, idle_s=0.5).partition(b"\r\n\r\n")[2])
    return document | changes


def told(steps: int, **changes: object) -> bytes:
    return json.dumps(journal(steps, **changes)).encode()


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    with running_router(tmp_path, OSWORLD_ROUTER_RETRY_S="0") as running:
        yield running


async def test_a_step_goes_on_where_nobody_but_the_client_knows_the_episode(router: Router) -> None:
    async with ScriptedEnv(playing()) as heir:
        await router.route(heir.entry())
        reply = await router.post(OWN_JOURNAL_PATH, told(2), headers=V2)
        assert (reply.status_code, reply.json()) == (200, {"steps": 2})
        headers = V2 | {HEADER_SEEN: "s1", HEADER_IDEMPOTENCY_KEY: "s2"}
        assert (await router.post("/env/step", headers=headers)).content == STEP_REPLY
        calls = [call.path for call in heir.calls if call.path != JOURNAL_PATH]
        assert calls == [REPLAY_PATH, "/env/step"]
        [replay] = [json.loads(call.body) for call in heir.calls if call.path == REPLAY_PATH]
        assert [step["key"] for step in replay["steps"]] == ["s0", "s1"]
        assert (replay["replay_of"], replay["is_delivered"], replay["key"]) == (EPISODE, True, "r")
        assert (await router.post("/env/evaluate", headers=V2 | {HEADER_SEEN: "s2"})).content == SCORE


async def test_a_client_that_has_seen_another_call_has_nothing_played_again(router: Router) -> None:
    async with ScriptedEnv(playing()) as heir:
        await router.route(heir.entry())
        await router.post(OWN_JOURNAL_PATH, told(2), headers=V2)
        await router.post("/env/step", headers=V2 | {HEADER_SEEN: "s9", HEADER_IDEMPOTENCY_KEY: "s10"})
        assert REPLAY_PATH not in [call.path for call in heir.calls]


@pytest.mark.parametrize(("known", "steps"), [(1, 2), (2, 2), (3, 3)])
async def test_what_the_env_server_knows_counts_if_it_is_no_less(router: Router, known: int, steps: int) -> None:
    """It may have carried out a step whose reply was lost; the client has seen what an older one does not know."""
    async with ScriptedEnv(playing()) as env:
        env.journal = journal_of(EPISODE, known, idle_s=5.0)
        await router.route(env.entry())
        assert (await router.post(OWN_JOURNAL_PATH, told(2), headers=V2)).json() == {"steps": steps}
        await router.post("/env/step", headers=V2 | {HEADER_SEEN: "s1", HEADER_IDEMPOTENCY_KEY: "s2"})
        assert (REPLAY_PATH in [call.path for call in env.calls]) is (known < 2)


@pytest.mark.parametrize("is_known", [False, True])
async def test_after_an_evaluate_of_a_postconfig_may_have_begun_nothing_is_played_again(
    router: Router, is_known: bool
) -> None:
    async with ScriptedEnv(playing()) as env, ScriptedEnv(playing()) as heir:
        if is_known:
            env.journal = whole(json.dumps(journal(2, can_evaluate_again=False)).encode())
        await router.route(env.entry())
        body = told(2, can_evaluate_again=False, may_be_evaluated=True)
        assert (await router.post(OWN_JOURNAL_PATH, body, headers=V2)).json() == {"steps": 2}
        await router.route(heir.entry(epoch=2))
        await router.post("/env/evaluate", headers=V2 | {HEADER_SEEN: "s1"})
        assert REPLAY_PATH not in [call.path for call in heir.calls]


async def test_an_episode_that_was_begun_since_is_not_played_over(router: Router) -> None:
    async with ScriptedEnv(playing()) as env:
        env.journal = journal_of(EPISODE, 1, idle_s=0.1)
        await router.route(env.entry())
        other = journal(2)
        other["episode"]["key"] = "another reset"
        reply = await router.post(OWN_JOURNAL_PATH, json.dumps(other).encode(), headers=V2)
        assert fault_of(reply) == (503, "no_episode")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        told(1, took_s=[1.0]),
        told(1, episode_id='e"'),
        told(1, idle_s=-1),
        told(1, unknown=1),
        json.dumps(journal(1) | {"episode": {"call": {}}}).encode(),
        told(1).replace(WINDOWS.encode(), b'\\"'),
        told(1).replace(b'"screen_b64": null', b'"screen_b64": "\\""'),
    ],
)
async def test_what_is_no_journal_is_refused(router: Router, body: bytes) -> None:
    assert fault_of(await router.post(OWN_JOURNAL_PATH, body, headers=V2)) == (422, "bad_request")


async def test_a_router_that_keeps_no_journal_of_that_size_says_so(tmp_path: Path) -> None:
    with running_router(tmp_path, OSWORLD_ROUTER_RECOVERY_MIB="0") as router:
        assert fault_of(await router.post(OWN_JOURNAL_PATH, b"x" * 25 * 1024 * 1024)) == (413, "body_too_large")
        assert fault_of(await router.post(OWN_JOURNAL_PATH, told(1))) == (413, "body_too_large"), "nothing is kept"
        assert fault_of(await router.get(f"/envs/0{OWN_JOURNAL_PATH}")) == (405, "method_not_allowed")


async def test_marks_are_shown_to_those_who_can_use_them(router: Router) -> None:
    async with ScriptedEnv(playing()) as env:
        await router.route(env.entry())
        task = b'{"task_config": {"instruction": "do"}}'
        assert HEADER_SIGHT not in (await router.post("/env/reset", task)).headers
        shown = (await router.post("/env/reset", task, headers=V2)).headers[HEADER_SIGHT]
        assert shown == f"{EPISODE};0;1;{WINDOWS}"
        assert (await router.post("/env/step", headers=V2)).status_code == 200
