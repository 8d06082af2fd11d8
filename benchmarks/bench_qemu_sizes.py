"""Virtual machines of two sizes: a reset by a fork must not take longer where the guest has more memory.

Both run in turn, so that the ratio is of the same minutes; the baseline is the smaller one.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.bench_qemu import mib, reset, timed
from osworld_envpod.desktops.qemu import QemuDesktop, QemuSettings


@dataclass(frozen=True)
class Figures:
    """Medians."""

    forks: int
    memory_mib: tuple[int, int]
    template_ram_mib: tuple[float, float]
    fork_reset_s: tuple[float, float]
    larger_over_smaller: float


async def main() -> None:
    """Measure, and print a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--forks", type=int, default=10)
    parser.add_argument("--memory-mib", type=int, nargs=2, default=(1024, 4096))
    wanted = parser.parse_args()
    small_mib, large_mib = wanted.memory_mib
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        small, large = [
            await stack.enter_async_context(
                QemuDesktop(QemuSettings(run_dir=Path(folder), memory_mib=memory_mib, spares=0))
            )
            for memory_mib in (small_mib, large_mib)
        ]
        small_s, large_s = [], []
        for _ in range(wanted.forks):
            small_s.append(await timed(lambda: reset(small)))
            large_s.append(await timed(lambda: reset(large)))
        ram = [desktop.template.part("ram").stat().st_blocks * 512 for desktop in (small, large)]
    medians = statistics.median(small_s), statistics.median(large_s)
    figures = Figures(
        forks=wanted.forks,
        memory_mib=(small_mib, large_mib),
        template_ram_mib=(mib(ram[0]), mib(ram[1])),
        fork_reset_s=(round(medians[0], 2), round(medians[1], 2)),
        larger_over_smaller=round(medians[1] / medians[0], 2),
    )
    print(json.dumps(asdict(figures)))


if __name__ == "__main__":
    asyncio.run(main())
