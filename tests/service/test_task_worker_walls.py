"""The task worker without a sandbox on a kernel that has no Landlock: it works, and says what is open."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.timeout(120)

SCRIPT: Final = """
import asyncio, errno, logging, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from hostile import run_hostile
from osworld_envpod.tasks.child import bpf
from osworld_envpod.tasks.settings import WorkerSettings
from osworld_envpod.tasks.worker import TaskWorker

LANDLOCK_CREATE_RULESET = 444

async def main():
    settings = WorkerSettings(cache_dir=Path(sys.argv[2], "own"), download_dir=Path(sys.argv[2]), sandbox=False)
    async with TaskWorker(settings) as worker:
        score, found = await run_hostile(worker, '''
        import socket
        attempt("checkout", lambda: len(os.listdir("/")) > 0)
        attempt("socket", lambda: socket.socket(socket.AF_UNIX) and "made")
        attempt("attach", lambda: ctypes.CDLL(None, use_errno=True).ptrace(16, os.getppid(), 0, 0))
        ''')
        print(score, found["checkout"], found["socket"], found["attach"])

logging.basicConfig(level=logging.INFO)
refusal = {LANDLOCK_CREATE_RULESET: bpf.refused(errno.ENOSYS)}
bpf.install(bpf.program(bpf.ARCHITECTURES[os.uname().machine], refusal))
asyncio.run(main())
"""


def test_without_landlock_the_worker_works_and_names_what_is_open(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", SCRIPT, str(Path(__file__).parents[1]), str(tmp_path)]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False, env=dict(os.environ))
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["1.0", "True", "None", "-1"]
    (warning,) = [line for line in run.stderr.splitlines() if line.startswith("WARNING")]
    assert "Landlock 0" in warning
    assert "files of the env server's user" in warning
