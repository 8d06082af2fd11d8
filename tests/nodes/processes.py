"""Starts processes that end with this one, even where it is killed, and runs programs that set things up.

The kernel sends the signal of ``setpriv --pdeathsig`` when the *thread* that forked ends, so all are forked by one
thread that lives as long as the process.
"""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from waiting import wait_until

_SPAWNER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
COMMAND_DEADLINE_S: Final = 60.0
NAMESPACE_DEADLINE_S: Final = 20.0


def spawn(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """Start `argv` with its output at the end of `log`."""

    def start() -> "subprocess.Popen[bytes]":
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            whole = ["setpriv", "--pdeathsig", "KILL", *argv]
            return subprocess.Popen(
                whole, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    return _SPAWNER.submit(start).result()


def kill(process: "subprocess.Popen[bytes] | None") -> None:
    """End a process at once and reap it; again is nothing."""
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def run(*argv: str, deadline_s: float = COMMAND_DEADLINE_S) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        AssertionError: It failed; with its words.
    """
    done = subprocess.run(argv, capture_output=True, text=True, timeout=deadline_s, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}"
    return done.stdout


def await_namespace(process: "subprocess.Popen[bytes]") -> None:
    """Wait until a process that was started by ``unshare --net`` has a network of its own."""
    ours = Path("/proc/self/ns/net").readlink()

    def is_apart() -> bool:
        assert process.poll() is None, f"ended with {process.returncode}"
        return Path(f"/proc/{process.pid}/ns/net").readlink() != ours

    wait_until(is_apart, NAMESPACE_DEADLINE_S, "a network namespace")
