"""What an env server does between episodes: it repairs the desktop, ends abandoned episodes, plays canaries."""

import asyncio
import logging
import time

from osworld_contract.faults import FaultError
from osworld_contract.wire import Phase
from osworld_envpod.canary import CanaryKind
from osworld_envpod.episode import Episode
from osworld_envpod.server import ACTIVE_PHASES, CANARY, REPAIR, EnvServer
from osworld_envpod.slot import NET_MARGIN_S

logger = logging.getLogger(__name__)

KEEPER_TICK_S = 1.0
"""How soon an idle env server notices that its desktop ended or that its episode went idle."""


async def keep(server: EnvServer) -> None:
    """Repair the desktop between episodes, and end episodes that nobody continues, until cancelled."""
    await server.started.wait()
    while True:
        await asyncio.sleep(KEEPER_TICK_S)  # providers' desktops have no event for their end
        server.show_desktop()
        if server.slot.operation is None:
            try:
                await _keep_once(server)
            except FaultError as error:
                logger.warning("The desktop could not be repaired, the next tick tries again: %s", error)
            except Exception:  # this task lives as long as the server: a defect must not end it unseen
                logger.exception("A defect while keeping the desktop")


async def _keep_once(server: EnvServer) -> None:
    """Do what is due now, with no operation under way."""
    runner, settings, episode = server.runner, server.settings, server.episode
    idle_s = time.monotonic() - server.slot.last_end
    if not runner.is_up and episode.phase in {Phase.RUNNING, Phase.DONE}:
        runner.note_loss(episode, idle_s)
    elif episode.phase is not Phase.IDLE and idle_s > settings.idle_timeout_s:
        logger.info("Episode %s ended: no call for %.0f s", episode.id, idle_s)
        if episode.phase in {Phase.RUNNING, Phase.DONE}:
            server.metrics.episodes.labels("idle").inc()
        server.episode = Episode()
    if server.is_draining:
        return  # nobody will use the desktop, and in an xvfb pod it may be ended already
    is_used = server.episode.phase is Phase.IDLE and not runner.is_pristine
    if server.episode.phase not in ACTIVE_PHASES and (is_used or not runner.is_up):
        deadline_s = settings.reset_timeout_s
        await server.slot.run(REPAIR, None, runner.clean_desktop(deadline_s), deadline_s + NET_MARGIN_S)
    elif server.episode.phase is Phase.IDLE and server.canary.is_due:
        await _ask_canaries(server)


async def _ask_canaries(server: EnvServer) -> None:
    settings = server.settings
    once_s = settings.reset_timeout_s + 2 * settings.step_timeout_s + settings.evaluate_timeout_s
    try:
        await server.slot.run(CANARY, None, server.canary.play(), len(CanaryKind) * once_s)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        logger.info("The canaries were cut short")
    except FaultError as error:
        logger.warning("The canaries ended with a fault of the desktop: %s", error)
