"""The commands of ``osworld-env pool``, put together; ``kubectl osworld`` has the same."""

import typer

from osworld_env.cluster.change import delete, scale
from osworld_env.cluster.create import create
from osworld_env.cluster.drain import drain
from osworld_env.cluster.logs import logs
from osworld_env.cluster.show import get, url
from osworld_env.cluster.top import top

pool = typer.Typer(
    name="pool",
    help="Pools of a Kubernetes cluster: what there is, the trainer's URL, changes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (create, get, top, url, logs, scale, drain, delete):
    pool.command()(command)
