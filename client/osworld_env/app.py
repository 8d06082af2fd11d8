"""The commands of ``osworld-env``, put together."""

from importlib.metadata import version
from typing import Annotated

import typer

from osworld_env import host, terminal
from osworld_env.check import check, evaluate_check
from osworld_env.cluster.app import pool
from osworld_env.demo import demo
from osworld_env.doctor import doctor
from osworld_env.episodes import episodes
from osworld_env.run import run
from osworld_env.servers import parse, serve, setup
from osworld_env.tunnel.command import tunnel
from osworld_env.up import up

app = typer.Typer(
    name="osworld-env",
    help="Real OSWorld desktops behind one URL, for reinforcement learning of computer-use agents.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (serve, up, run, check, evaluate_check, parse, doctor, setup, demo, tunnel):
    app.command()(command)
app.add_typer(host.app)
app.add_typer(episodes)
app.add_typer(pool)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        terminal.out.print(version("osworld-env"))
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Real OSWorld desktops behind one URL, for reinforcement learning of computer-use agents."""
