"""Env servers of a script whose episodes may be played again, for tests of what a router makes of their loss."""

import asyncio
import json
from typing import Final

from osworld_contract.faults import FaultBody, FaultReason, fault_error
from osworld_contract.replay import REPLAY_PATH
from osworld_contract.wire import DesktopStatus, EnvState, Phase
from router_rig import STEP_REPLY, Received, Router, Script, ScriptedEnv, whole

EPISODE: Final = "e" * 32
WINDOWS: Final = "d" * 32
TASK: Final = b'{"task_config": {"instruction": "do"}}'
SCORE: Final = b"1.0"


def playing(*, refuses: FaultReason | None = None, episode: str = EPISODE, phase: Phase = Phase.RUNNING) -> Script:
    """Return the script of an env server whose replies may be played again, and that plays or `refuses` to."""
    steps = 0

    async def script(request: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal steps
        if request.path == REPLAY_PATH and refuses is not None:
            fault = fault_error(refuses).fault
            reply = whole(FaultBody.of(fault).model_dump_json().encode(), f"{fault.status} Refused")
        elif request.path == REPLAY_PATH:
            steps = len(json.loads(request.body)["steps"])
            reply = whole(json.dumps({"episode_id": episode, "predictions": steps}).encode())
        elif request.path == "/env/evaluate":
            reply = whole(SCORE)
        elif request.path == "/state":
            reply = whole(state_of(phase))
        else:
            steps = 0 if request.path == "/env/reset" else steps + 1
            reply = whole(STEP_REPLY, X_Osworld_Sight=f"{episode};{steps};1;{WINDOWS}")
        writer.write(reply)
        await writer.drain()

    return script


def journal_of(episode: str, predictions: int, idle_s: float) -> bytes:
    """Return the answer of an env server that plays `episode`."""
    seen = {"windows": WINDOWS, "screen_b64": None}
    steps = [{"pause_s": 0, "call": {"prediction": "x"}, "key": f"s{n}", "seen": seen} for n in range(predictions)]
    begun = {"call": {"task_config": {"instruction": "do"}}, "key": "r", "seen": seen, "steps": steps}
    facts = {"episode_id": episode, "can_evaluate_again": True, "may_be_evaluated": False, "idle_s": idle_s}
    return whole(json.dumps(facts | {"took_s": [0.1] * (predictions + 1), "episode": begun}).encode())


def state_of(phase: Phase) -> bytes:
    """Return what ``/state`` says of an episode in `phase`."""
    desktop = DesktopStatus(provider="xvfb", state="running", facts={})
    state = EnvState(
        phase=phase, since=0, episode_id=EPISODE, task_id=None, step=0, predictions=0, is_draining=False,
        desktop=desktop, fault=None,
    )  # fmt: skip
    return state.model_dump_json().encode()


async def lose(router: Router, heir: ScriptedEnv) -> None:
    """Play a reset and a step on an env server whose env_idx `heir` has then."""
    async with ScriptedEnv(playing()) as lost:
        await router.route(lost.entry(epoch=1))
        assert (await router.post("/env/reset", TASK)).status_code == 200
        assert (await router.post("/env/step")).content == STEP_REPLY
    await router.route(heir.entry(epoch=2))
