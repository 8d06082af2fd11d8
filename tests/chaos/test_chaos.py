"""Whatever breaks, the trainer is never told a wrong score: real deaths, real desktops, the trainer's own habits."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chaos.monkey import Monkey
from chaos.player import SCRIPTS, Outcome, play
from up_process import TOKEN, Up

logger = logging.getLogger(__name__)

ENVS = 4
PAUSE_S = 4.0
"""Between two deaths."""

HUNG_S = 300.0
"""No call may take longer: the trainer's own limit for a step and an evaluate."""


def told(outcomes: list[Outcome]) -> str:
    """Return what a person needs to see of `outcomes`."""
    return "\n".join(f"{o.score} for {o.script.score}, slowest {o.slowest_s:.1f} s: {o.errors}" for o in outcomes)


def play_all(up: Up, episodes: int) -> list[Outcome]:
    """Play `episodes` episodes on all envs, each env one after the other."""

    def on_one(env_idx: int) -> list[Outcome]:
        url = f"{up.url}/envs/{env_idx}"
        return [play(url, TOKEN, SCRIPTS[i % len(SCRIPTS)]) for i in range(env_idx, episodes, ENVS)]

    with ThreadPoolExecutor(ENVS) as threads:
        return [outcome for outcomes in threads.map(on_one, range(ENVS)) for outcome in outcomes]


@pytest.mark.parametrize(
    "episodes",
    [
        pytest.param(24, marks=pytest.mark.timeout(900)),
        pytest.param(200, marks=[pytest.mark.timeout(3600), pytest.mark.long]),
    ],
)
def test_no_death_makes_a_wrong_score(
    tmp_path: Path, episodes: int, record_property: Callable[[str, object], None]
) -> None:
    with Up(tmp_path, envs=ENVS) as up:
        undisturbed = play_all(up, ENVS * len(SCRIPTS))
        assert all(outcome.is_right for outcome in undisturbed), told(undisturbed)
        with Monkey(up, PAUSE_S, seed=episodes) as monkey:
            outcomes = play_all(up, episodes)
        assert monkey.done, "nothing was broken"
        right = sum(outcome.is_right for outcome in outcomes)
        logger.info("%d of %d right, the rest faults; broken: %s", right, episodes, dict(monkey.done))
        record_property("right", right)
        assert not [o for o in outcomes if o.is_wrong], told(outcomes) + up.log[-5000:]
        assert not [o.illegal for o in outcomes if o.illegal], told(outcomes)
        assert max(o.slowest_s for o in outcomes) < HUNG_S, told(outcomes)
        after = play_all(up, ENVS * len(SCRIPTS))
        assert all(outcome.is_right for outcome in after), told(after)
