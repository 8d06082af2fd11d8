"""Played by `test_chaos` in a network of its own: the router loses env servers that live and work on."""

from pathlib import Path

import pytest

from chaos.judgement import Note
from chaos.monkey import CUT_OFF, Monkey
from chaos.own_network import POWERLESS, light
from chaos.player import play_masking
from chaos.test_chaos import play_among_deaths, play_undisturbed
from up_process import Up


@pytest.mark.timeout(600)
def test_no_cut_makes_a_wrong_score(tmp_path: Path, record_property: Note) -> None:
    light()
    with Up(tmp_path, envs=2, spares=1, step_pause_s=0.5, wrap=POWERLESS) as up:
        monkey = Monkey(up, 3, seed=5, only=(CUT_OFF, CUT_OFF, CUT_OFF, "env server"))
        right = play_among_deaths(up, monkey, 12, play_masking, record_property)
        assert monkey.done[CUT_OFF]
        assert right >= 0.75, "see the log"
        play_undisturbed(up)
