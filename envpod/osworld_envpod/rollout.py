"""One step: a prediction is parsed, its actions are carried out on the desktop, and the screen is taken.

Follows the original server's step (public trainer, ``scripts/remote_env_server.py``): a pause after each action, an end
on a word (DONE, FAIL), on a parse error and at the maximum of actions, a screenshot only where the episode goes on.
"""

import asyncio
import logging

from osworld_contract.actions import Call
from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.actions import DIALECTS, Action, Outcome, StepScreens, format_reward, to_pyautogui
from osworld_envpod.episode import Episode, Observation
from osworld_envpod.guest import GuestClient
from osworld_envpod.settings import EnvServerSettings

logger = logging.getLogger(__name__)

PREVIEW_CHARS = 120
"""Source: the original's log line."""

CALL_MARGIN_S = 20.0
"""What a guest may need beyond the time that the calls themselves ask for."""

CALL_PART = 0.5
"""Of a step's deadline, what an action may always ask for: a deadline below the margin would leave none to carry out,
and every episode its 0. A guess; a guest that is slower still is a fault by the deadline."""

SCREENSHOT_DEADLINE_S = 15.0
"""As for a reset's screenshot."""

PARSE_ERROR_WORD = "DONE"
"""What a prediction that cannot be parsed counts as. Source: the original."""


class Rollout:
    """Carries out one prediction. Afterwards `screenshot` is what the agent sees next, None where the episode ended."""

    def __init__(self, settings: EnvServerSettings, guest: GuestClient, episode: Episode) -> None:
        self.screenshot: bytes | None = None
        self.windows: str | None = None
        """Digest of the windows afterwards, None where the guest does not tell."""
        self._settings = settings
        self._guest = guest
        self._episode = episode

    async def step(self, prediction: str) -> Observation:
        """Return what `prediction` came to.

        Raises:
            FaultError: The desktop could not do it, or did not show the screen. Actions before it were carried out.
        """
        parsed = DIALECTS[self._settings.actions](prediction)
        entries = [to_pyautogui(action) for action in parsed.actions]
        is_parsed = parsed.outcome is Outcome.CALLS
        logger.info(
            "step_parse: %s actions=[%s] format_reward=%.2f pred_preview=%r",
            "ok" if is_parsed else "fail",
            _one_line(entries[0] if entries else "none" if is_parsed else PARSE_ERROR_WORD),
            format_reward(self._settings.format_reward, parsed, None),
            _one_line(prediction),
        )
        if is_parsed:
            is_done, is_seen = await self._carry_out(parsed.actions, entries)
        else:
            logger.info("Parse action error: %s", parsed.error)
            self._episode.action_history.append(PARSE_ERROR_WORD)
            self._episode.actions_done += 1
            is_done, is_seen = True, False
        history = self._episode.history
        if is_done:
            self.windows = await self._guest.windows()
        else:
            self.screenshot, self.windows = await self._guest.look(SCREENSHOT_DEADLINE_S)
        history.add_prediction(parsed.boxed)
        if self.screenshot is not None:
            history.add_screenshot(self.screenshot)
        screens = StepScreens(is_seen=is_seen, is_missing=not is_done and self.screenshot is None)
        reward = format_reward(self._settings.format_reward, parsed, screens)
        return Observation(None if is_done else len(history), is_done, reward)

    async def _carry_out(self, actions: tuple[Action, ...], entries: list[str]) -> tuple[bool, bool]:
        """Return (the episode is over, an action left it going on)."""
        is_seen = False
        for action, entry in zip(actions, entries, strict=True):
            self._episode.action_history.append(entry)
            if action.word == "WAIT":
                await asyncio.sleep(self._settings.step_pause_s)
            elif action.word is None:
                await self._call(action)
            await asyncio.sleep(self._settings.step_pause_s)
            self._episode.actions_done += 1
            if action.word in {"DONE", "FAIL"} or self._episode.actions_done >= self._settings.max_steps:
                return True, is_seen
            is_seen = True
        # The original ends an episode whose prediction asks for nothing at all: it has no screen to show then.
        return not actions, is_seen

    async def _call(self, action: Action) -> None:
        calls = action.calls()
        needed_s = sum(_duration_s(call) for call in calls)
        step_s = self._settings.step_timeout_s
        if needed_s > max(step_s - CALL_MARGIN_S, step_s * CALL_PART):
            logger.info("An action of %.0f s was not carried out: a step may take %.0f s", needed_s, step_s)
            return
        try:
            await self._guest.run_calls(calls, needed_s + CALL_MARGIN_S)
        except FaultError as error:
            if error.fault.reason is not FaultReason.ACTION_REFUSED:
                raise
            # As in the original, where such code fails inside the guest: the agent sees that nothing happened.
            logger.info("An action was not carried out: %s", error.fault.message)


def _one_line(text: str) -> str:
    return text[:PREVIEW_CHARS].replace("\n", " ")


def _duration_s(call: Call) -> float:
    """Return the seconds that `call` asks for by itself."""
    if call.name == "sleep":
        return float(str(call.args[0]))
    if call.name == "write":
        return len(str(call.args[0])) * float(str(call.kwargs.get("interval", 0)))
    return float(str(call.kwargs.get("duration", 0)))
