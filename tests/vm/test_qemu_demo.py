"""The demo on virtual machines, through the command line as a person types it."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from server_process import clean_environment

pytestmark = pytest.mark.timeout(600)

DEMO_DEADLINE_S: Final = 540.0
"""Two machines under emulation, each with a spare that loads, and a boot where no template is there yet."""


def test_the_demo_plays_both_episodes_on_forked_machines(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "osworld_env", "demo", "--port", "0", "--out", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        timeout=DEMO_DEADLINE_S,
        check=False,
        cwd=tmp_path,
        env=clean_environment(PROVIDER="qemu"),
    )
    assert done.returncode == 0, done
    assert "two qemu desktops" in done.stdout
    assert "DEMO OK" in done.stdout
    assert (tmp_path / "demo" / "index.html").is_file()
