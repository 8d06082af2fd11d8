"""What a reset finds when what it waited for has ended."""

import asyncio
from collections.abc import Callable

import pytest

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_contract.wire import Phase
from osworld_envpod.desktops.choose import desktop_for
from osworld_envpod.metrics import EnvMetrics
from osworld_envpod.runner import Runner
from osworld_envpod.server import CANARY, EnvServer
from osworld_envpod.settings import EnvServerSettings
from osworld_envpod.tasks.choose import worker_for
from tasks_of import RENAME, task_config
from waiting import wait_for

DEADLINE_S = 10.0


@pytest.fixture
def server() -> EnvServer:
    """An env server whose desktop was never started: no reset may come so far."""
    settings, metrics = EnvServerSettings(_env_file=None, PROVIDER="xvfb"), EnvMetrics()
    desktop, worker = desktop_for(settings, metrics.show_image), worker_for(settings)
    return EnvServer(settings, Runner(settings, desktop, worker, metrics), metrics)


def judge(server: EnvServer) -> None:
    server.canary.fault = fault_error(FaultReason.CANARY_WRONG).fault


@pytest.mark.parametrize(
    ("last_word", "reason"),
    [(lambda _: None, FaultReason.ENV_DRAINING), (judge, FaultReason.CANARY_WRONG)],
    ids=["drain", "verdict"],
)
async def test_a_reset_that_waited_for_a_canary_asks_again_whether_it_may_begin(
    server: EnvServer, last_word: Callable[[EnvServer], None], reason: FaultReason
) -> None:
    is_asked_to_end, may_end = asyncio.Event(), asyncio.Event()

    async def canary() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            is_asked_to_end.set()
            await may_end.wait()
            last_word(server)

    playing = asyncio.create_task(server.slot.run(CANARY, None, canary(), DEADLINE_S))
    await wait_for(lambda: server.slot.operation is not None, DEADLINE_S, "the canary")
    drain = asyncio.create_task(server.drain()) if reason is FaultReason.ENV_DRAINING else None
    if drain is not None:
        await asyncio.wait_for(is_asked_to_end.wait(), DEADLINE_S)
    reset = asyncio.create_task(server.reset(task_config(RENAME)))
    await asyncio.wait_for(is_asked_to_end.wait(), DEADLINE_S)
    may_end.set()
    if drain is not None:
        assert (await drain).is_draining
    with pytest.raises(FaultError) as refused:
        await asyncio.wait_for(reset, DEADLINE_S)
    assert refused.value.fault.reason is reason
    assert server.episode.phase is Phase.IDLE
    await asyncio.wait({playing})
