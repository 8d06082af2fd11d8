"""The commands of ``osworld-env pool``, put together; ``kubectl osworld`` has the same."""

import typer

from osworld_env.cluster.change import delete, scale
from osworld_env.cluster.show import get, url

pool = typer.Typer(
    name="pool",
    help="Pools of a Kubernetes cluster: what there is, the trainer's URL, changes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (get, url, scale, delete):
    pool.command()(command)
