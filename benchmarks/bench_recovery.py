"""Recovery: from the SIGKILL of an env server in a step to the answer, and what undisturbed steps pay for it.

Baseline of the answer: reset and replay as the spare's own log has them, and the lost step itself, in the same run.
Baseline of an undisturbed step: the screenshot without the look at the windows beside it, the two in turn.
"""

import argparse
import asyncio
import base64
import os
import re
import signal
import statistics
import tempfile
import threading
import time
from pathlib import Path

from chaos.player import FINISHED, SCRIPTS
from osworld_contract.replay import Mark
from osworld_env import EnvClient
from osworld_envpod.desktops.xvfb.desktop import XvfbDesktop
from osworld_envpod.guest import GuestClient
from osworld_router.journal import Journals, Passed
from osworld_router.screens import last_image
from up_process import READY_DEADLINE_S, Up, alive
from waiting import wait_until

REPLY_BYTES = 1_700_000
INTO_THE_STEP_S = 0.5


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deaths", type=int, default=5)
    parser.add_argument("--looks", type=int, default=100)
    options = parser.parse_args()
    print(f"router's bookkeeping of a 1.7 MB reply, p50: {statistics.median(bookkeeping_ms(options.looks)):.2f} ms")
    plain, beside = asyncio.run(looks_ms(options.looks))
    print(f"screenshot p50 {plain:.2f} ms, with the windows beside it {beside:.2f} ms")
    for answer, own, step in deaths_s(options.deaths):
        print(f"SIGKILL to answer {answer:.2f} s; reset and replay {own:.2f} s, the step {step:.2f} s", flush=True)


def bookkeeping_ms(count: int) -> list[float]:
    """Return what the router spends on noting a reply."""
    image = base64.b64encode(os.urandom(REPLY_BYTES * 3 // 4))
    body = b'{"obs_messages":[{"content":[{"type":"image","b64":"%s","min_pixels":1}]}]}' % image
    chunks = [body[at : at + 65536] for at in range(0, len(body), 65536)]
    journals, took = Journals(1 << 28), []
    for number in range(count):
        began = time.perf_counter()
        mark = Mark.parse(Mark("e" * 32, number % 12, can_evaluate_again=True, windows="d" * 32).header)
        assert mark is not None
        call = Passed(mark, b"compressed", "key", last_image(chunks), 1.0, 1.0)
        journals.go_on(0, "u", call) if mark.number else journals.begin(0, "u", call)
        took.append((time.perf_counter() - began) * 1000)
        assert journals.get(0) is not None
    return took


async def looks_ms(count: int) -> tuple[float, float]:
    """Return the medians of a screenshot alone, and with the look at the windows."""
    took: tuple[list[float], list[float]] = ([], [])
    async with XvfbDesktop() as desktop, GuestClient(desktop.addresses) as guest:
        for _ in range(count):
            for times, look in zip(took, (guest.screenshot, guest.look), strict=True):
                began = time.perf_counter()
                await look(15)
                times.append((time.perf_counter() - began) * 1000)
    return statistics.median(took[0]), statistics.median(took[1])


def deaths_s(count: int) -> list[tuple[float, float, float]]:
    """Return (SIGKILL to answer, reset and replay, the step itself) of each death."""
    script = SCRIPTS[0]
    found = []
    with tempfile.TemporaryDirectory() as folder, Up(Path(folder), envs=1, spares=1) as up:
        for _ in range(count):
            wait_until(lambda: len(_ready(up)) == 2, READY_DEADLINE_S, "a spare")
            with EnvClient(up.token_url) as client:
                client.reset(script.task)
                client.step(script.predictions[0])
                began = time.monotonic()
                client.step(script.predictions[1])
                step_s = time.monotonic() - began
                [entry] = up.registry.envs
                victim = _ready(up)[int(entry.url.rpartition(":")[2])]
                killer = threading.Timer(INTO_THE_STEP_S, os.kill, (victim, signal.SIGKILL))
                began = time.monotonic()
                killer.start()
                client.step(script.predictions[2])
                answer_s = time.monotonic() - began - INTO_THE_STEP_S
                client.step(FINISHED)
                assert client.evaluate() == script.score
            found.append((answer_s, _replay_s(up), step_s))
    return found


def _ready(up: Up) -> dict[int, int]:
    """Return the env servers that are ready: their process ids by port."""
    said = re.findall(r"is ready: pid (\d+), port (\d+)", " ".join(up.log.split()))
    ready = {int(port): int(pid) for pid, port in said}
    running = alive(list(ready.values()))
    return {port: pid for port, pid in ready.items() if pid in running}


def _replay_s(up: Up) -> float:
    """Return the seconds of the last replay that any env server logged."""
    found = []
    for path in up.run_dir.glob("*.log"):
        for line in path.read_text(errors="replace").splitlines():
            if match := re.search(r"replay ended: result=ok seconds=([0-9.]+)", line):
                found.append((line[:23], float(match[1])))
    return max(found)[1]


if __name__ == "__main__":
    main()
