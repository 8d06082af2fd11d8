"""Whatever breaks, the trainer is never told a wrong score: real deaths, real desktops, the trainer's own habits."""

from pathlib import Path

import pytest

from chaos.judgement import Note, part_right, play_all, told
from chaos.monkey import FROZEN_FOR_GOOD, Monkey
from chaos.own_network import play_in_own_network
from chaos.player import SCRIPTS, Play, play, play_masking
from up_process import TOKEN, Up

OUTER_DEADLINE_S = 650.0
"""Of a test inside a test: what is inside has the shorter one, and cleans up."""


def play_among_deaths(up: Up, monkey: Monkey, episodes: int, playing: Play, note: Note) -> float:
    """Return which part of `episodes` ends right while `monkey` breaks things; see `part_right`."""
    with monkey:
        outcomes = play_all(up.url, TOKEN, up.envs, episodes, playing)
    return part_right(outcomes, monkey.done, note, up.log[-5000:])


def play_undisturbed(up: Up) -> None:
    """Play each script on each env: all must end right."""
    outcomes = play_all(up.url, TOKEN, up.envs, up.envs * len(SCRIPTS), play)
    assert all(outcome.is_right for outcome in outcomes), told(outcomes)


@pytest.mark.timeout(900)
def test_no_death_makes_a_wrong_score_for_an_unmodified_trainer(tmp_path: Path, record_property: Note) -> None:
    """Its connection to a router that dies ends its episode, and nothing behind the router can help."""
    with Up(tmp_path, envs=4, spares=2, step_pause_s=0.5) as up:
        play_undisturbed(up)
        play_among_deaths(up, Monkey(up, 4, seed=1), 20, play, record_property)
        play_undisturbed(up)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("playing", "spared"), [(play_masking, ""), (play, "router")])
def test_deaths_cost_few_episodes(tmp_path: Path, playing: Play, spared: str, record_property: Note) -> None:
    with Up(tmp_path, envs=4, spares=2, step_pause_s=0.5) as up:
        monkey = Monkey(up, 4, seed=2, spared=spared)
        right = play_among_deaths(up, monkey, 20, playing, record_property)
        assert right >= 0.9, "see the log"


@pytest.mark.timeout(700)
def test_env_servers_that_are_cut_off_make_no_wrong_score(tmp_path: Path) -> None:
    """In a network of its own, where packets can be lost: nobody outside of it reaches the pool, so all is inside."""
    play_in_own_network(Path(__file__).with_name("cut_off.py"), tmp_path, OUTER_DEADLINE_S, "--log-cli-level=INFO")


@pytest.mark.timeout(3600)
@pytest.mark.long
@pytest.mark.parametrize(("playing", "spared"), [(play_masking, ""), (play, "router")])
def test_deaths_cost_one_episode_in_a_hundred(
    tmp_path: Path, playing: Play, spared: str, record_property: Note
) -> None:
    with Up(tmp_path, envs=6, spares=2, step_pause_s=0.5) as up:
        right = play_among_deaths(up, Monkey(up, 10, seed=3, spared=spared), 200, playing, record_property)
        assert right >= 0.99, "see the log"
        play_undisturbed(up)


@pytest.mark.timeout(3600)
@pytest.mark.long
@pytest.mark.parametrize("playing", [play_masking, play])
def test_what_freezes_for_good_is_a_fault_by_its_deadline(tmp_path: Path, playing: Play, record_property: Note) -> None:
    """Nobody wakes it: who waits for it gives up, ends it, and starts another one."""
    with Up(tmp_path, envs=4, spares=2, step_pause_s=0.5) as up:
        monkey = Monkey(up, 10, seed=6, only=list(FROZEN_FOR_GOOD))
        play_among_deaths(up, monkey, 40, playing, record_property)
        assert len(monkey.done) == len(FROZEN_FOR_GOOD)
        play_undisturbed(up)
