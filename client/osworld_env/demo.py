"""``osworld-env demo``: two envs, one real task, played right on one and not at all on the other, at the same time."""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import JsonValue
from rich.markup import escape

from osworld_contract.names import ROUTER_PORT
from osworld_env import terminal
from osworld_env.client import EnvClient
from osworld_env.episode import EpisodePlayer, EpisodeRecord
from osworld_env.errors import EXIT_FAILURE, BadUsageError
from osworld_env.foreground import Interrupts, run_in_foreground
from osworld_env.machine_check import ensure_provider_can_start
from osworld_env.pool import running_pool
from osworld_env.pool_plan import PoolPlan
from osworld_env.ports import PortPicker, ensure_free
from osworld_env.run import save_page, show_outcome, show_shot, timings_table
from osworld_env.run_folder import run_folder
from osworld_env.script import ScriptStep, read_script, read_task

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples" / "demo"
DEMO_MAX_STEPS: Final = 60
"""More than a trainer's 15: on a slow machine the first terminal may take half a minute to open, at a wait a second."""

INTERRUPTED_EXIT: Final = 130
"""Source: the shell's convention for a command that SIGINT ended."""


@dataclass(frozen=True)
class Part:
    """One of the demo's episodes."""

    env_idx: int
    name: str
    folder: str
    script: tuple[ScriptStep, ...]
    due_score: float


def demo(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The router's port; 0 takes a free one.")] = ROUTER_PORT,
    out: Annotated[Path, typer.Option(help="Folder for screenshots and page.")] = Path("out/demo"),
    examples: Annotated[Path, typer.Option(help="Folder with task.json, rename.txt and no-op.txt.")] = EXAMPLES,
) -> None:
    """Bring up two envs and a router, play a real OSWorld task on both, show scores and filmstrips.

    Env 0 renames a folder by keyboard and is to score 1.0; env 1 does nothing and is to score 0.0.
    """
    if not examples.is_dir():
        raise BadUsageError(
            f"{examples} is not there: run the demo in a checkout, or say where its files are: --examples"
        )
    task = read_task(examples / "task.json")
    parts = (
        Part(0, "env 0: renames the folder", "rename", read_script(examples / "rename.txt"), 1.0),
        Part(1, "env 1: does nothing", "no-op", read_script(examples / "no-op.txt"), 0.0),
    )
    ensure_free("127.0.0.1", port)
    provider = demo_provider(os.environ)
    ensure_provider_can_start(provider)
    records: list[EpisodeRecord] = []

    async def play(interrupts: Interrupts) -> None:
        began = time.monotonic()
        async with running_pool(plan, interrupts):
            terminal.out.print(f"Two envs and the router are ready after {time.monotonic() - began:.1f} s.")
            plays = (asyncio.to_thread(partial(_play, plan.router_url, part, task, out)) for part in parts)
            records.extend(await asyncio.gather(*plays))

    with PortPicker() as ports, run_folder() as folder:
        plan = PoolPlan(
            envs=len(parts),
            provider=provider,
            host="127.0.0.1",
            port=port or ports.pick(),
            run_dir=folder,
            env_variables={"OSWORLD_MAX_STEPS": str(DEMO_MAX_STEPS)},
        )
        terminal.set_up_console_logging("WARNING", (plan.upstream_token,))
        logging.getLogger("osworld_env.foreground").setLevel(logging.INFO)
        terminal.out.print(
            f"Starting two {provider} desktops, their env servers and the router; logs in {folder}", markup=False
        )
        if run_in_foreground(play):
            terminal.out.print("DEMO FAILED: interrupted")
            raise typer.Exit(INTERRUPTED_EXIT)
    _finish(records, parts, out)


def demo_provider(environment: Mapping[str, str]) -> str:
    """Return the provider that the demo plays on: qemu where ``PROVIDER`` asks for it, else xvfb, which needs nothing.

    A shell that is set up for another provider is no reason to fail.
    """
    return "qemu" if environment.get("PROVIDER") == "qemu" else "xvfb"


def _play(router_url: str, part: Part, task: dict[str, JsonValue], out: Path) -> EpisodeRecord:
    """Play one part; in a thread of its own."""
    with EnvClient(router_url, env_idx=part.env_idx) as client:
        on_shot = partial(show_shot, prefix=f"[env {part.env_idx}] ")
        return EpisodePlayer(client, out / part.folder, on_shot).play(part.name, task, part.script)


def _finish(records: list[EpisodeRecord], parts: tuple[Part, ...], out: Path) -> None:
    page = save_page("osworld-env demo: one real OSWorld task, played twice", records, out)
    terminal.out.print(timings_table(*records))
    wrong = []
    for record, part in zip(records, parts, strict=True):
        terminal.out.print(f"{record.name}: {record.outcome}, due: score {part.due_score:g}", markup=False)
        if record.fault is not None:
            show_outcome(record)
        if record.score != part.due_score:
            wrong.append(f"{record.name} gave {record.outcome} instead of score {part.due_score:g}")
    terminal.out.print(f"Filmstrips: {page.resolve()}", markup=False)
    if wrong:
        terminal.out.print(f"[bold red]DEMO FAILED:[/] {escape('; '.join(wrong))}")
        raise typer.Exit(EXIT_FAILURE)
    terminal.out.print(
        "[bold green]DEMO OK:[/] OSWorld's evaluator gave 1.0 to the episode that renamed the folder, "
        "0.0 to the one that did nothing"
    )
