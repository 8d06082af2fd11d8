"""``make soak``: episodes for half an hour while parts of the pool are killed; what the pool holds must stay flat.

The router is spared: one that is killed every minute starts anew, and what it gains in half an hour would not show.
Other parts are killed, so of each the process that lived longest is judged by itself, too.
"""

import csv
import json
import logging
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))

from chaos.monkey import Monkey  # noqa: E402 - a script finds its siblings only so
from chaos.player import SCRIPTS, Outcome, play  # noqa: E402
from chaos.sampler import Sampler, Samples  # noqa: E402
from chaos.trend import Bound, Trend, trend  # noqa: E402
from up_process import TOKEN, Up, alive  # noqa: E402
from waiting import wait_until  # noqa: E402

logger = logging.getLogger("soak")

MINUTES = 30.0
WARM_UP_PART = 0.2
"""Of the run: caches fill, each env server has played each script, the records have reached their bound."""
SEEN_PART = 0.95
"""Of the run there are samples, or the verdict is about less of it."""
SAMPLE_S = 5.0
BREAK_S = 10.0
HUNG_S = 300.0
"""No call may take longer: the trainer's own limit for a step and an evaluate."""
RECORDS_MIB = 16
GONE_S = 30.0

BOUNDS = {
    "PSS MiB": Bound(0.10, 24),
    "open files": Bound(0.10, 24),
    "processes": Bound(0.10, 8),
    "threads": Bound(0.10, 16),
    "disk MiB": Bound(0.10, 24),
}
"""What is still flat of a part. RSS counts shared pages once a process, logs grow by nature: these are not judged."""
ONE_PROCESS = {"pss_mib": Bound(0.05, 8), "files": Bound(0.05, 4), "threads": Bound(0.05, 4)}
"""What is still flat of the process of a part that lived longest."""
ALONE = "oldest of"
JUDGED_ALONE = ("launcher", "router", "env servers")


@dataclass(frozen=True)
class Run:
    """What came of one."""

    minutes: float
    outcomes: list[Outcome]
    broken: dict[str, int]
    trends: dict[str, Trend | None]
    seen_s: float
    """When the last sample was taken."""
    left: list[int]
    """Processes that outlived their pool."""

    @property
    def troubles(self) -> list[str]:
        """Return what must not be, one line each."""
        troubles = [f"wrong score: {o.score} for {o.script.score}" for o in self.outcomes if o.is_wrong]
        troubles += [f"illegal pair: {pair}" for o in self.outcomes for pair in o.illegal]
        troubles += [f"hung call: {slowest_s(o):.0f} s" for o in self.outcomes if slowest_s(o) >= HUNG_S]
        for name, t in self.trends.items():
            if t and not t.is_flat:
                troubles.append(f"grew: {name}, {t.first:.1f} to {t.last:.1f}")
            elif t is None and ALONE not in name:
                troubles.append(f"too few samples: {name}")
        if self.seen_s < self.minutes * 60 * SEEN_PART:
            troubles.append(f"nobody looked after {self.seen_s:.0f} s")
        if self.left:
            troubles.append(f"left behind: processes {self.left}")
        if not self.outcomes or not self.broken:
            troubles.append("no episode was played, or nothing was broken")
        return troubles

    def told(self) -> dict[str, object]:
        """Return all of it for a file."""
        return {
            "minutes": self.minutes,
            "load": os.getloadavg(),
            "episodes": len(self.outcomes),
            "right": sum(o.is_right for o in self.outcomes),
            "wrong": sum(o.is_wrong for o in self.outcomes),
            "slowest_call_s": max(map(slowest_s, self.outcomes), default=0),
            "broken": self.broken,
            "troubles": self.troubles,
            "trends": {name: asdict(t) | {"is_flat": t.is_flat} if t else None for name, t in self.trends.items()},
            "errors": [o.errors for o in self.outcomes if not o.is_right],
        }

    def page(self) -> str:
        """Return what a person needs to see, the verdict last."""
        lines = [f"{'figure':44} {'first':>8} {'last':>8} {'per hour':>9} {'allowed':>8}"]
        for name, t in self.trends.items():
            if t:
                lines.append(f"{name:44} {t.first:8.1f} {t.last:8.1f} {t.slope_per_hour:9.1f} {t.allowed:8.1f}")
        right, wrong = sum(o.is_right for o in self.outcomes), sum(o.is_wrong for o in self.outcomes)
        lines.append(
            f"{self.minutes:g} min, {len(self.outcomes)} episodes: {right} right, {wrong} wrong, the rest faults"
        )
        lines.append(f"slowest call {max(map(slowest_s, self.outcomes), default=0):.0f} s; broken: {self.broken}")
        return "\n".join([*lines, *self.troubles, "SOAK " + ("FAILED" if self.troubles else "OK")]) + "\n"


def slowest_s(outcome: Outcome) -> float:
    """Return the seconds of an episode's slowest call."""
    return max(outcome.slowest_s, outcome.slowest_reset_s)


def main() -> int:
    """Run, write out/soak, and print the verdict; 1 where it is bad."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    seconds = float(os.environ.get("SOAK_MINUTES") or MINUTES) * 60
    envs, spares = int(os.environ.get("SOAK_ENVS") or 4), 2
    out = CHECKOUT / "out" / "soak"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder, records = Path(name), Path(name, "records")
        variables = {"OSWORLD_EPISODE_RECORDS_DIR": str(records), "OSWORLD_EPISODE_RECORDS_MAX_MIB": str(RECORDS_MIB)}
        with Up(folder, envs, spares, variables, step_pause_s=0.5) as up:
            sampler = Sampler(up, SAMPLE_S, {"run folder": up.run_dir, "records": records})
            monkey = Monkey(up, BREAK_S, seed=4, spared="router")
            with sampler, monkey:
                outcomes = _play(up, time.monotonic() + seconds)
            members = up.descendants()
        left = _left(sampler, members)
    since = seconds * WARM_UP_PART
    trends = {**_parts(sampler.samples, since), **_alone(sampler.samples, since)}
    run = Run(seconds / 60, outcomes, dict(monkey.done), trends, sampler.samples.last_s, left)
    _write_rows(out / "samples.csv", sampler.samples)
    (out / "verdict.json").write_text(json.dumps(run.told(), indent=1))
    sys.stdout.write(run.page())
    return int(bool(run.troubles))


def _play(up: Up, end: float) -> list[Outcome]:
    def on_one(env_idx: int) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while time.monotonic() < end:
            outcomes.append(play(f"{up.url}/envs/{env_idx}", TOKEN, SCRIPTS[(env_idx + len(outcomes)) % len(SCRIPTS)]))
            if not outcomes[-1].is_right:
                logger.info("env %d: %s %s", env_idx, outcomes[-1].score, outcomes[-1].errors)
        return outcomes

    with ThreadPoolExecutor(up.envs) as threads:
        return [outcome for outcomes in threads.map(on_one, range(up.envs)) for outcome in outcomes]


def _left(sampler: Sampler, members: list[int]) -> list[int]:
    """Return processes that outlive their pool."""
    try:
        wait_until(lambda: not alive(members) and not sampler.strays(set()), GONE_S, "all processes are gone")
    except AssertionError:
        return sorted({*alive(members), *sampler.strays(set())})
    return []


def _parts(samples: Samples, since: float) -> dict[str, Trend | None]:
    names = sorted({name for _, row in samples.rows for name in row})
    return {
        name: trend(samples.column(name, since), bound)
        for name in names
        for unit, bound in BOUNDS.items()
        if name.endswith(unit) and not name.startswith("logs")
    }


def _alone(samples: Samples, since: float) -> dict[str, Trend | None]:
    trends = {}
    for part in JUDGED_ALONE:
        rows = samples.oldest(part, since)
        for unit, bound in ONE_PROCESS.items():
            trends[f"{ALONE} {part}: {unit}"] = trend([(at, getattr(held, unit)) for at, held in rows], bound)
    return trends


def _write_rows(path: Path, samples: Samples) -> None:
    names = sorted({name for _, row in samples.rows for name in row})
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seconds", *names])
        writer.writerows([f"{at:.0f}", *(f"{row.get(name, 0):.1f}" for name in names)] for at, row in samples.rows)


if __name__ == "__main__":
    sys.exit(main())
