"""``pool top``: a pool's envs as they change, with what they do in a second."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from osworld_contract.crd import OSWorldEnv
from osworld_env import terminal
from osworld_env.cluster.options import ContextOption, NameArgument, NamespaceOption, open_pools
from osworld_env.cluster.show import describe, print_table, read_rows
from osworld_env.cluster.tables import envs_table
from osworld_env.cluster.view import EnvRow
from osworld_env.errors import ClusterError

HEAD_LINES: Final = 5
"""What stands above the envs, and a free line below."""


def top(
    name: NameArgument,
    every_s: Annotated[float, typer.Option("--every", min=0.5, max=3600, help="Seconds between two looks.")] = 2.0,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Watch a pool, until Ctrl-C: those in trouble first, then those that have been at the same thing for longest.

    Where no person watches, it is printed once.
    """
    with open_pools(namespace, context) as pools:
        env = pools.one(name)
        rows, trouble = read_rows(pools, env)
        if not terminal.is_interactive():
            terminal.out.print(head_text(env, rows, 0.0, trouble), markup=False)
            print_table(envs_table(by_interest(rows), time.time()))
            return
        seen_at, steps = time.monotonic(), steps_of(rows)
        with Live(_screen(env, rows, 0.0, trouble), console=terminal.out, auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(every_s)
                try:
                    env = pools.one(name)
                    rows, trouble = read_rows(pools, env)
                except ClusterError as error:  # the next look may find it again
                    trouble = error.message
                now, before = time.monotonic(), steps
                steps = steps_of(rows)
                rate = steps_between(before, steps) / (now - seen_at)
                seen_at = now
                live.update(_screen(env, rows, rate, trouble), refresh=True)


def by_interest(rows: Sequence[EnvRow]) -> list[EnvRow]:
    """Return the rows in the order in which a person wants to see them."""
    return sorted(rows, key=lambda row: (row.is_fine, row.since is None, row.since or 0.0))


def head_text(env: OSWorldEnv, rows: Sequence[EnvRow], steps_per_s: float, trouble: str | None) -> str:
    """Return the lines above the envs."""
    states = Counter(row.state for row in rows)
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    lines = [describe(env), f"{counts or 'no pods'}; {steps_per_s:.1f} actions/s"]
    if trouble is not None:
        lines.append(f"note: episodes are not known: {trouble}")
    return "\n".join(lines)


def steps_of(rows: Sequence[EnvRow]) -> dict[tuple[int, str], int]:
    """Return the step that each episode is at."""
    return {
        (row.env_idx, row.task): row.step
        for row in rows
        if row.env_idx is not None and row.task is not None and row.step is not None
    }


def steps_between(before: Mapping[tuple[int, str], int], after: Mapping[tuple[int, str], int]) -> int:
    """Return how many actions were carried out, as far as the same episodes tell; one that began anew counts as new."""
    return sum(step - known if (known := before.get(key, 0)) <= step else step for key, step in after.items())


def _screen(env: OSWorldEnv, rows: Sequence[EnvRow], steps_per_s: float, trouble: str | None) -> Group:
    shown = by_interest(rows)[: max(terminal.out.height - HEAD_LINES, 1)]
    return Group(Text(head_text(env, rows, steps_per_s, trouble)), Text(""), envs_table(shown, time.time()))
