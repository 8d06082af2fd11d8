"""How an episode ended for its client, where only the router knows: said once, with the next reset."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from osworld_contract.faults import FaultBody, FaultReason, fault_error
from osworld_contract.names import HEADER_ENDED, HEADER_EPISODE
from osworld_contract.record import RecordEnd
from router_rig import CALL, STEP_REPLY, V2, Received, Router, ScriptedEnv, fault_of, whole
from waiting import wait_for

STEP, EVALUATE, RESET = "/env/step", "/env/evaluate", "/env/reset"
NO_IMAGE = FaultBody.of(fault_error(FaultReason.IMAGE_INVALID).fault).model_dump_json().encode()


@dataclass
class Player:
    """Plays episodes, each under an id of its own, and ends or refuses what it is told to."""

    breaks: str = ""
    """Path of the call that gets no reply."""
    refuses: str = ""
    """Path of the call that is refused as a rival's."""
    hangs: bool = False
    """Whether steps hang."""
    fails: bool = False
    """Whether resets end in a fault that trying again does not help."""
    number: int = 0

    @property
    def episode(self) -> str:
        return f"{self.number:032x}"

    async def script(self, request: Received, writer: asyncio.StreamWriter) -> None:
        if request.path == self.breaks:
            writer.close()
            return
        if self.hangs and request.path == STEP:
            await asyncio.Event().wait()
        if self.fails and request.path == RESET:
            writer.write(whole(NO_IMAGE, "503 Service Unavailable"))
            return
        self.number += request.path == RESET
        status = "409 Conflict" if request.path == self.refuses else "200 OK"
        is_score = request.path == EVALUATE
        writer.write(whole(b"1.0") if is_score else whole(STEP_REPLY, status, **{HEADER_EPISODE: self.episode}))
        await writer.drain()


@pytest.fixture
def player() -> Player:
    return Player()


@pytest.fixture
async def playing(env: ScriptedEnv, router: Router, player: Player) -> AsyncIterator[ScriptedEnv]:
    """An env server in the first episode of `player`."""
    env.script = player.script
    assert (await router.post(RESET)).headers[HEADER_EPISODE] == player.episode
    yield env


async def told(router: Router, env: ScriptedEnv) -> RecordEnd | None:
    """Return what the env server is told of the episode before by a reset."""
    assert (await router.post(RESET)).status_code == 200
    values = env.calls[-1].all(HEADER_ENDED)
    return RecordEnd.parse(*values) if values else None


async def told_after(router: Router, env: ScriptedEnv, player: Player) -> RecordEnd | None:
    player.breaks = ""
    return await told(router, env)


@pytest.mark.parametrize("path", [STEP, EVALUATE])
async def test_a_lost_call_is_said_with_the_next_reset_and_not_after(
    router: Router, playing: ScriptedEnv, player: Player, path: str
) -> None:
    lost, player.breaks = player.episode, path
    assert fault_of(await router.post(path))[1] == "env_down"
    player.breaks, player.fails = "", True
    assert fault_of(await router.post(RESET))[1] == "image_invalid"
    player.fails = False
    end = await told(router, playing)
    assert end is not None
    assert (end.episode_id, end.operation, end.fault.header) == (lost, path.rpartition("/")[2], "infra/env_down")
    assert await told(router, playing) is None


async def test_what_comes_after_a_lost_step_is_not_its_end(
    router: Router, playing: ScriptedEnv, player: Player
) -> None:
    player.breaks = STEP
    await router.post(STEP)
    assert fault_of(await router.post(EVALUATE))[0] == 503
    end = await told_after(router, playing, player)
    assert end is not None and end.operation == "step"


async def test_an_episode_that_goes_on_has_no_end(router: Router, playing: ScriptedEnv, player: Player) -> None:
    player.breaks = STEP
    await router.post(STEP, headers=V2)
    player.breaks = ""
    assert (await router.post(STEP, headers=V2)).status_code == 200
    assert await told(router, playing) is None


async def test_an_episode_that_has_its_score_has_no_end(router: Router, playing: ScriptedEnv, player: Player) -> None:
    player.breaks = EVALUATE
    await router.post(EVALUATE)
    player.breaks = ""
    assert (await router.post(EVALUATE)).content == b"1.0"
    player.breaks = EVALUATE
    await router.post(EVALUATE)
    assert await told_after(router, playing, player) is None


@pytest.mark.parametrize("path", [STEP, EVALUATE])
async def test_a_clients_own_fault_is_no_end(router: Router, playing: ScriptedEnv, player: Player, path: str) -> None:
    player.refuses = path
    await router.post(path)
    player.refuses = ""
    assert (await router.post("/envs/77" + path)).status_code == 404
    assert await told(router, playing) is None


async def test_a_reset_that_failed_is_not_the_end_of_the_episode_before(
    router: Router, playing: ScriptedEnv, player: Player
) -> None:
    assert (await router.post(EVALUATE)).content == b"1.0"
    player.fails = True
    await router.post(RESET)
    assert fault_of(await router.post(EVALUATE)) == (503, "image_invalid")
    player.fails = False
    assert await told(router, playing) is None


async def test_a_client_that_goes_in_a_step_is_an_end(router: Router, playing: ScriptedEnv, player: Player) -> None:
    def left() -> int:
        return len(re.findall(r"call operation=step env_idx=0 .* code=client_gone ", router.log))

    player.hangs, before = True, left()
    _, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(CALL % b"step")
    await wait_for(lambda: playing.calls[-1].path == STEP, 20, "the step")
    writer.close()
    await wait_for(lambda: left() > before, 20, "the router to let go of it")
    player.hangs = False
    end = await told(router, playing)
    assert end is not None and (end.operation, end.fault.reason) == ("step", "reply_lost")


async def test_what_a_client_says_of_itself_is_dropped(router: Router, playing: ScriptedEnv) -> None:
    for path in (RESET, STEP):
        assert (await router.post(path, headers={HEADER_ENDED: "forged"})).status_code == 200
        assert not playing.calls[-1].all(HEADER_ENDED)


async def test_an_env_server_that_names_no_episode_is_told_nothing(router: Router, env: ScriptedEnv) -> None:
    player = Player(breaks=STEP, number=-2)  # "-...1" is no id
    env.script = player.script
    await router.post(RESET)
    await router.post(STEP)
    assert await told_after(router, env, player) is None
