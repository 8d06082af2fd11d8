"""The folder of a containerd that has all images: made once, and given to each node as hard links.

To import gigabytes at every node's start takes a minute each. What containerd has unpacked it never changes; only its
databases are written to, so each node gets those as copies.
"""

import hashlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nodes.processes import run, spawn
from waiting import wait_until

START_DEADLINE_S: Final = 20.0
IMPORT_DEADLINE_S: Final = 600.0
STOP_DEADLINE_S: Final = 30.0


def store_of(archives: Sequence[Path], folder: Path) -> Path:
    """Return where in `folder` the store of these archives lies, made or not."""
    names = " ".join(sorted(path.name for path in archives))
    return folder / f"store-{hashlib.sha256(names.encode()).hexdigest()[:16]}"


def make_store(archives: Sequence[Path], target: Path) -> None:
    """Have a containerd of its own import `archives` into `target`."""
    with tempfile.TemporaryDirectory() as state:
        socket = Path(state, "containerd.sock")
        argv = ["containerd", f"--root={target}", f"--state={state}/state", f"--address={socket}"]
        daemon = spawn(argv, Path(state, "log"))
        ctr = ("ctr", f"--address={socket}", "--namespace=k8s.io")

        def answers() -> bool:
            assert daemon.poll() is None, Path(state, "log").read_text(errors="replace")[-2000:]
            run(*ctr, "version")
            return True

        try:
            wait_until(answers, START_DEADLINE_S, "containerd answers")
            for archive in archives:
                run(*ctr, "images", "import", str(archive), deadline_s=IMPORT_DEADLINE_S)
        finally:
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def give_store(store: Path, target: Path) -> None:
    """Make `target` a containerd's folder with all that `store` has. On the same file system: hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    run("cp", "--archive", "--link", str(store), str(target))
    for database in target.rglob("*.db"):
        copy = database.with_suffix(".copy")
        shutil.copy2(database, copy)
        copy.replace(database)
