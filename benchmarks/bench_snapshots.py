"""Task snapshots: resets of one task whose setup takes 20 s, with and without them, on env servers with qemu desktops.

The baseline is the same server without snapshots. A reset's clock starts at the request, with a machine that the last
episode was played on, and ends with the reply that has the screenshot.
"""

import argparse
import json
import statistics
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from osworld_env.ports import free_port
from server_process import ServerProcess, clean_environment

DEADLINE_S = 1200.0
BOOT_DEADLINE_S = 900.0
FIELDS = {"id": "bench", "instruction": "bench", "evaluator": {"func": "infeasible"}}


@dataclass(frozen=True)
class Figures:
    """Seconds, medians where there are several."""

    setup_s: float
    resets: int
    plain_reset_s: float
    first_reset_s: float
    next_reset_s: float
    next_reset_max_s: float
    other_server_reset_s: float
    first_over_next: float
    plain_over_next: float


def main() -> None:
    """Measure, and print a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--resets", type=int, default=10)
    parser.add_argument("--setup-s", type=float, default=20.0)
    wanted = parser.parse_args()
    task = FIELDS | {
        "config": [
            {"type": "execute", "parameters": {"command": ["touch", f"/home/user/{uuid.uuid4().hex}"]}},
            {"type": "sleep", "parameters": {"seconds": wanted.setup_s}},
        ]
    }
    with tempfile.TemporaryDirectory() as folder:
        with server(Path(folder), "0") as plain:
            plain_s = resets(plain, task, max(2, wanted.resets // 3))
        with server(Path(folder), "1") as one:
            first_s, *next_s = resets(one, task, 1 + wanted.resets)
        with server(Path(folder), "1") as other:
            other_s, _ = resets(other, task, 2)
    next_p50, plain_p50 = statistics.median(next_s), statistics.median(plain_s)
    figures = Figures(
        setup_s=wanted.setup_s,
        resets=wanted.resets,
        plain_reset_s=round(plain_p50, 2),
        first_reset_s=round(first_s, 2),
        next_reset_s=round(next_p50, 2),
        next_reset_max_s=round(max(next_s), 2),
        other_server_reset_s=round(other_s, 2),
        first_over_next=round(first_s / next_p50, 1),
        plain_over_next=round(plain_p50 / next_p50, 1),
    )
    print(json.dumps(asdict(figures)))


def server(folder: Path, snapshots: str) -> ServerProcess:
    """Return an env server with a virtual machine, not started."""
    port = free_port()
    variables = {"PROVIDER": "qemu", "OSWORLD_PORT": str(port), "OSWORLD_TASK_SNAPSHOTS": snapshots}
    return ServerProcess("osworld_envpod", folder, clean_environment(**variables), port)


def resets(env: ServerProcess, task: dict[str, Any], count: int) -> list[float]:
    """Return the seconds of `count` resets in a row."""
    env.wait_ready(deadline_s=BOOT_DEADLINE_S)
    found = []
    for _ in range(count):
        began = time.monotonic()
        reply = httpx.post(env.url + "/env/reset", json={"task_config": task}, timeout=DEADLINE_S)
        found.append(time.monotonic() - began)
        assert reply.is_success, reply.text[:1000]
    return found


if __name__ == "__main__":
    main()
