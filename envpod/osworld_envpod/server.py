"""The env server: decides which operation may run on the one episode.

Nothing of HTTP is in here; `app` maps requests to these methods and `FaultError` to replies.
"""

import asyncio
import dataclasses
import logging
import time

from pydantic import JsonValue

from osworld_contract.faults import Fault, FaultError, FaultReason, fault_error
from osworld_contract.logs import EPISODE_BEGINS
from osworld_contract.replay import ReplayReply, ReplayRequest
from osworld_contract.task import parse_task
from osworld_contract.wire import DesktopStatus, EnvState, Phase
from osworld_envpod.admission import Tenancy
from osworld_envpod.canary import Canary
from osworld_envpod.desktops.base import STOP_DEADLINE_S, DesktopFacts, DesktopState
from osworld_envpod.episode import Episode, Observation
from osworld_envpod.journal import journal_of
from osworld_envpod.metrics import EnvMetrics
from osworld_envpod.replayer import Replayer
from osworld_envpod.runner import Runner
from osworld_envpod.scoring import Question, Scoring
from osworld_envpod.settings import EnvServerSettings
from osworld_envpod.slot import (
    ANYBODY,
    NET_MARGIN_S,
    Caller,
    Slot,
    answered_again,
    call_key,
)

logger = logging.getLogger(__name__)

REPAIR = "repair"
CANARY = "canary"
OWN_OPERATIONS = frozenset({REPAIR, CANARY})
"""Operations between episodes; see `keeping`."""

PREEMPT_S = 1.0
"""How long a canary has to make room for a caller."""

ACTIVE_PHASES = frozenset({Phase.RESETTING, Phase.RUNNING, Phase.DONE, Phase.EVALUATING})


class EnvServer:
    """One episode at a time on one desktop."""

    def __init__(self, settings: EnvServerSettings, runner: Runner, metrics: EnvMetrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.episode = Episode()
        self.is_draining = False
        self.runner = runner
        self.canary = Canary(runner, metrics, settings.canary_every_s)
        self.slot = Slot(metrics, settings.pool, settings.provider.value)
        self._scoring = Scoring(settings, runner, self.slot)
        self.started = asyncio.Event()

    async def start(self) -> None:
        """Start the desktop.

        Raises:
            FaultError: It did not come up.
        """
        await self.runner.start()
        self.show_desktop()
        self.started.set()
        logger.info("Desktop ready: %s", self.facts)

    def show_desktop(self) -> None:
        """Show in the metrics whether the desktop is up, and what runs it."""
        self.metrics.desktop_up.set(int(self.runner.is_up))
        self.metrics.show_accelerator(self.facts.accelerator, self.settings.qemu_accelerator)

    async def stop(self) -> None:
        """End the operation under way, the worker and the desktop. Can run twice."""
        await self.slot.end(STOP_DEADLINE_S)
        await self.runner.stop()

    async def reset(
        self, task_config: dict[str, JsonValue], key: str | None = None, caller: Caller = ANYBODY
    ) -> Observation:
        """Begin an episode on a clean desktop with the task set up.

        Waits for an operation whose callers hung up: a trainer whose router died in the middle of a call resets next,
        and would take a refusal for the end of this episode, and the score of the one before for its score.

        Raises:
            FaultError: What went wrong. After a ``client`` fault the episode of before can go on; see `refuse_scores`.
        """
        if (twin := self.slot.twin("reset", key, caller)) is not None:
            joined: Observation = await twin.joined(caller.is_gone)
            return joined
        episode = self.episode_of(caller.tenancy)
        if key is not None and key == episode.reset_key and episode.first_observation is not None:
            return await answered_again(episode, episode.first_observation, key, caller)
        ends = time.monotonic() + self.settings.reset_timeout_s
        await self._make_room("reset", caller)
        if (twin := self.slot.twin("reset", key, caller)) is not None:  # this call, sent twice, has waited twice
            joined = await twin.joined(caller.is_gone)
            return joined
        # What was waited for counts: a repair can last as long as a boot, and the client's deadline began before it.
        work = self._reset(task_config, key, caller, ends)
        deadline_s = ends - time.monotonic() + NET_MARGIN_S
        return await self.slot.run("reset", key, work, deadline_s, caller)

    async def replay(self, request: ReplayRequest, caller: Caller = ANYBODY) -> ReplayReply:
        """Begin the episode of `request` anew and bring it to where it was, for a client that has seen all of that.

        Raises:
            FaultError: It could not be had, or nobody may play it again here. There is no episode to go on with then.
        """
        await self._make_room("replay", caller)
        deadline_s = self.settings.reset_timeout_s + NET_MARGIN_S + request.pause_s
        deadline_s += sum(step.pause_s + self.settings.step_timeout_s for step in request.steps)
        return await self.slot.run("replay", None, self._replay(request, caller), deadline_s, caller)

    async def journal(self, tenancy: Tenancy | None = None) -> list[bytes] | None:
        """Return the JSON of the episode under way, None where it is over or must not be played again."""
        await self._after_replay()
        return journal_of(self.episode_of(tenancy))

    async def step(
        self, prediction: str, key: str | None = None, number: int | None = None, caller: Caller = ANYBODY
    ) -> Observation:
        """Carry out what `prediction` asks for, and show the screen after it.

        A repeat, told by `key` or `number`, is answered from record. A fault of ours is in the observation.

        Raises:
            FaultError: A ``client`` fault: busy, no episode, episode over, a key or number that does not fit.
        """
        key = call_key(key, number)
        await self._after_replay()
        if (twin := self.slot.twin("step", key, caller)) is not None:
            joined: Observation = await twin.joined(caller.is_gone)
            return joined
        episode = self.episode_of(caller.tenancy)
        if episode is self.episode and episode.phase is not Phase.FAULTED and not self._is_on_its_own:
            self.slot.refuse_if_busy("step")
        if episode.phase is Phase.IDLE:
            raise fault_error(FaultReason.NO_EPISODE, operation="step")
        if (recorded := episode.recorded(prediction, key, number)) is not None:
            return await answered_again(episode, recorded, key, caller)
        if episode.phase is Phase.FAULTED:
            return Observation(None, True, 0.0, episode.fault)
        if episode.phase is not Phase.RUNNING:
            raise fault_error(FaultReason.EPISODE_OVER, operation="step")
        work = self.slot.answered(episode, self.runner.step(episode, prediction, key), key, caller)
        return await self.slot.run("step", key, work, self.settings.step_timeout_s + NET_MARGIN_S, caller)

    def acknowledge(self, key: str, tenancy: Tenancy | None = None) -> bool:
        """Note that the reply to the reset or step of `key` arrived. Return whether that was the last one."""
        return self.episode_of(tenancy).delivery.acknowledge(key)

    async def evaluate(self, question: Question) -> float:
        """Return the score of the episode, the same one for every call; see `Scoring`.

        Raises:
            FaultError: No score could be computed, or there is no episode.
        """
        await self._after_replay()
        return await self._scoring.score(self.episode_of(question.caller.tenancy), question, lambda: self.episode)

    def episode_of(self, tenancy: Tenancy | None) -> Episode:
        """Return the episode, and none where a router calls for another tenancy than the one that it was begun for.

        A pod that was out of reach loses its env_idx with an episode on it, and may get that of another trainer.
        """
        return self.episode if self.episode.is_known_to(tenancy) else Episode()

    async def _after_replay(self) -> None:
        """Wait for a replay whose router died: it goes on, and the next router's call is what it is played for."""
        running = self.slot.operation
        if running is not None and running.name == "replay" and await running.is_abandoned():
            await asyncio.wait([running.task])

    def refuse_scores(self, fault: Fault) -> None:
        """Answer evaluates with `fault` until the next reset: the one that came last was refused with it.

        A trainer takes a refused reset for an episode that is over and asks for its score; the score of the episode
        before would be a reward for another task.
        """
        self.episode.refused_reset = fault

    async def _make_room(self, operation: str, caller: Caller) -> None:
        """Wait for an operation of ours, a canary's but shortly, or one that nobody waits for any more.

        Raises:
            FaultError: No episode may begin here.
        """
        self._refuse_if_out(operation)
        await self._end_canary()
        running = self.slot.operation
        is_rival = running is not None and not self._is_on_its_own and running.is_for(caller.tenancy)
        if running is not None and (not is_rival or await running.is_abandoned()):
            await asyncio.wait([running.task], timeout=self.settings.reset_timeout_s)
        self._refuse_if_out(operation)  # a drain may have waited as well, and a canary's last word may be its verdict

    def _refuse_if_out(self, operation: str) -> None:
        if self.is_draining:
            raise fault_error(FaultReason.ENV_DRAINING, operation=operation)
        if self.canary.fault is not None:
            raise FaultError(self.canary.fault)

    async def _end_canary(self) -> None:
        running, began = self.slot.operation, time.monotonic()
        if running is not None and running.name == CANARY:
            await self.slot.end(PREEMPT_S)
            words = "made room" if running.task.done() else "still stand in the way"
            logger.info("The canaries %s after %.3f s", words, time.monotonic() - began)

    async def drain(self) -> EnvState:
        """Take no new episode from now on.

        Raises:
            FaultError: ``client/busy`` while an episode is under way; nothing changes then.
        """
        await self._end_canary()
        if self.slot.operation is not None or self.episode.phase in ACTIVE_PHASES:
            raise fault_error(FaultReason.BUSY, f"an episode is {self.episode.phase}: drain when it is over")
        self.is_draining = True
        return self.state()

    @property
    def facts(self) -> DesktopFacts:
        """Return what the desktop is and can."""
        return self.runner.desktop.facts

    @property
    def _is_on_its_own(self) -> bool:
        """Say whether the operation under way is ours, between episodes: no rival of a caller."""
        return self.slot.operation is not None and self.slot.operation.name in OWN_OPERATIONS

    @property
    def is_ready(self) -> bool:
        """Say whether a reset would be taken and find a desktop."""
        is_taken_out = self.is_draining or self.canary.fault is not None
        return self.started.is_set() and not is_taken_out and self.runner.desktop.state is not DesktopState.FAILED

    @property
    def is_initialized(self) -> bool:
        """Say whether the desktop has come up once."""
        return self.started.is_set()

    def state(self) -> EnvState:
        """Return what ``/state`` shows."""
        status = DesktopStatus(
            provider=self.facts.provider, state=self.runner.desktop.state, facts=dataclasses.asdict(self.facts)
        )
        return self.episode.state(status, self.is_draining, self.canary.fault)

    async def _reset(
        self, task_config: dict[str, JsonValue], key: str | None, caller: Caller, ends: float
    ) -> Observation:
        episode = await self._begun(task_config, key, caller, ends)
        work = self.runner.reset(episode, ends - time.monotonic(), self.slot.is_abandoned)
        return await self.slot.answered(episode, work, key, caller)

    async def _replay(self, request: ReplayRequest, caller: Caller) -> ReplayReply:
        if not self.runner.may_replay(parse_task(request.call.task_config)):
            raise fault_error(FaultReason.BAD_REQUEST, "this desktop has a network, and the task is not offline")
        ends = time.monotonic() + self.settings.reset_timeout_s
        episode = await self._begun(request.call.task_config, request.key, caller, ends)
        episode.is_whole, episode.replay_of = False, request.replay_of
        await Replayer(self.runner, episode).replay(request)
        episode.is_whole = True
        episode.delivery.begin()
        if request.is_delivered:
            episode.delivery.send(None)  # its client had every reply, from the env server that was lost
        return ReplayReply(episode_id=episode.id, predictions=episode.predictions)

    async def _begun(self, task_config: dict[str, JsonValue], key: str | None, caller: Caller, ends: float) -> Episode:
        """Return a new episode in place of the one before."""
        task = parse_task(task_config)
        try:
            async with asyncio.timeout(ends - time.monotonic()):
                await self.started.wait()
        except TimeoutError as error:
            message = (
                f"the first desktop is still starting, which may take {self.runner.desktop.start_deadline_s:.0f} s"
                " in all. It goes on: reset again"
            )
            raise fault_error(FaultReason.DESKTOP_START_FAILED, message, operation="reset") from error
        await self.runner.check(task)
        if self.episode.phase in {Phase.RUNNING, Phase.DONE}:
            self.metrics.episodes.labels("abandoned").inc()
        episode = Episode(task=task, tenancy=caller.tenancy, reset_key=key, task_config=task_config)
        episode.move(Phase.RESETTING)
        self.episode = episode
        logger.info(EPISODE_BEGINS, episode.id, "_".join(task.id.split()))
        return episode
