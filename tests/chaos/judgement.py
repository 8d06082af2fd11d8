"""What came of episodes that were played while parts of their pool broke: who played what, and what may not be."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from chaos.player import SCRIPTS, Outcome, Play, Script

logger = logging.getLogger(__name__)

HUNG_S = 300.0
"""No step or evaluate may take longer: the trainer's own limit."""

HUNG_RESET_S = 1200.0
"""The same for a reset. One whose task worker is frozen is tried again after the 360 s of an attempt."""

Note = Callable[[str, object], None]


def told(outcomes: list[Outcome]) -> str:
    """Return what a person needs to see of `outcomes`."""
    return "\n".join(
        f"{o.score} for {o.script.score}, slowest {o.slowest_s:.1f} s, reset {o.slowest_reset_s:.1f} s: {o.errors}"
        for o in outcomes
    )


def play_all(
    url: str, token: str, envs: int, episodes: int, playing: Play, scripts: Sequence[Script] = SCRIPTS
) -> list[Outcome]:
    """Play `episodes` episodes on all envs of the router at `url`, each env one after the other."""

    def on_one(env_idx: int) -> list[Outcome]:
        mine = range(env_idx, episodes, envs)
        return [playing(f"{url}/envs/{env_idx}", token, scripts[i % len(scripts)]) for i in mine]

    with ThreadPoolExecutor(envs) as threads:
        return [outcome for outcomes in threads.map(on_one, range(envs)) for outcome in outcomes]


def part_right(outcomes: list[Outcome], broken: Mapping[str, int], note: Note, evidence: str = "") -> float:
    """Return which part of `outcomes` is right. No other one may have a score, no pair be illegal, no call hang."""
    assert broken, "nothing was broken"
    right = sum(outcome.is_right for outcome in outcomes)
    logger.info("%d of %d right, the rest faults; broken: %s\n%s", right, len(outcomes), dict(broken), told(outcomes))
    note("right", right)
    assert not [o for o in outcomes if o.is_wrong], told(outcomes) + evidence
    assert not [o.illegal for o in outcomes if o.illegal], told(outcomes)
    assert max(o.slowest_s for o in outcomes) < HUNG_S, told(outcomes)
    assert max(o.slowest_reset_s for o in outcomes) < HUNG_RESET_S, told(outcomes)
    return right / len(outcomes)
