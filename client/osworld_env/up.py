"""``osworld-env up``: env servers and a router on this machine, in the foreground."""

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.live import Live

from osworld_contract.names import ENV_TOKEN, ROUTER_PORT
from osworld_env import env_options, terminal
from osworld_env.errors import BadUsageError, CliError
from osworld_env.foreground import Interrupts, run_in_foreground
from osworld_env.live_table import live_table
from osworld_env.machine_check import ensure_provider_can_start
from osworld_env.pool import LocalPool, running_pool
from osworld_env.pool_plan import PoolPlan, limits_for
from osworld_env.ports import PortPicker, ensure_free
from osworld_env.run_folder import run_folder
from osworld_env.settings import load_settings

_logger = logging.getLogger(__name__)

TABLE_EVERY_S: Final = 1.0
ENVS_MAX: Final = 256
"""A guess: far beyond what one machine carries, below what its ports do."""

SPARES_MAX: Final = 16
"""A guess: more than ever end at the same time."""

LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def up(  # noqa: PLR0913, PLR0917 - one parameter for each option
    envs: Annotated[int, typer.Option("--envs", "-n", min=1, max=ENVS_MAX, help="How many envs.")] = 1,
    spares: Annotated[
        int,
        typer.Option(min=0, max=SPARES_MAX, help="How many env servers more, for the place of one that ends."),
    ] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The router's port; 0 takes a free one.")] = ROUTER_PORT,
    provider: Annotated[str, typer.Option(help="The desktops' provider.")] = "xvfb",
    host: Annotated[str, typer.Option(help="Address on which the router listens.")] = "127.0.0.1",
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond this machine without a token.")] = False,
    max_steps: env_options.MaxSteps = None,
    step_pause_s: env_options.StepPauseS = None,
    format_reward: env_options.FormatReward = None,
    task_mirror: env_options.TaskMirror = None,
    log_level: env_options.LogLevel = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Written when all is ready: JSON with router_url, pid, run_dir, envs.")
    ] = None,
) -> None:
    """Run env servers and a router here, until Ctrl-C.

    The trainer's URL is the router's, http://127.0.0.1:15001 unless options say otherwise. OSWORLD_TOKEN, from the
    environment or .env, is asked of its clients. Programs that end are started again.
    """
    token = load_settings().token_text
    if host not in LOOPBACK_HOSTS and token is None and not insecure:
        raise BadUsageError(
            f"--host {host} can be reached from other machines: set {ENV_TOKEN}, or pass --insecure to let everybody in"
        )
    ensure_free(host, port)
    ensure_provider_can_start(provider)
    with PortPicker() as ports, run_folder() as folder:
        plan = PoolPlan(
            envs=envs,
            spares=spares,
            provider=provider,
            host=host,
            port=port or ports.pick(),
            run_dir=folder,
            is_insecure=insecure,
            router_token=token,
            limits=limits_for(provider),
            env_variables=env_options.env_variables(
                max_steps=max_steps,
                step_pause_s=step_pause_s,
                format_reward=format_reward,
                task_mirror=task_mirror,
                log_level=log_level,
            ),
        )
        terminal.set_up_console_logging("INFO", tuple(filter(None, (token, plan.upstream_token))))
        terminal.out.print(f"Starting {envs + spares} {provider} env server(s); logs in {folder}")
        run_in_foreground(lambda interrupts: _serve(plan, ready_file, interrupts))
        terminal.out.print("Stopped.")


async def _serve(plan: PoolPlan, ready_file: Path | None, interrupts: Interrupts) -> None:
    async with running_pool(plan, interrupts) as pool:
        if ready_file is not None:
            await _write_ready_file(ready_file, pool)
        terminal.out.print(f"[bold green]Ready.[/] Trainer URL: {plan.router_url}")
        await _show(pool)


async def _show(pool: LocalPool) -> None:
    """Redraw the table, where somebody watches, until cancelled."""
    if not terminal.is_interactive():
        await asyncio.Event().wait()
    title = f"osworld-env at {pool.plan.router_url}"
    with Live(live_table(title, []), console=terminal.out, auto_refresh=False) as live:
        while True:
            live.update(live_table(title, await pool.views()), refresh=True)
            await asyncio.sleep(TABLE_EVERY_S)


async def _write_ready_file(path: Path, pool: LocalPool) -> None:
    views = await pool.views()
    content = {
        "router_url": pool.plan.router_url,
        "pid": os.getpid(),
        "run_dir": str(pool.plan.run_dir),
        "envs": [
            {"env_idx": view.env_idx, "pid": view.pid, "port": view.port, "epoch": view.epoch}
            for view in views
            if view.env_idx is not None
        ],
    }
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(content, indent=1) + "\n")
        draft.replace(path)
    except OSError as error:
        raise CliError(f"the ready file {path} cannot be written: {error.strerror}") from error
