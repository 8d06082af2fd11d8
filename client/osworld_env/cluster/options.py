"""Arguments and options that the commands of ``pool`` share, and how they reach a cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from osworld_env.errors import CliError

if TYPE_CHECKING:
    from osworld_env.cluster.pools import Pools

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The pool: the name of its OSWorldEnv.")]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Its namespace.", show_default="the context's")
]
ContextOption = Annotated[
    str | None, typer.Option("--context", help="A context of the kubeconfig.", show_default="the current one")
]


@contextmanager
def open_pools(namespace: str | None, context: str | None) -> Iterator["Pools"]:
    """Give the pools of a namespace for the time of the block.

    Raises:
        CliError: The extra ``kubectl`` is not installed.
    """
    try:  # the library takes a second to import, and a trainer's machine does not have it
        from osworld_env.cluster.api import ClusterApi  # noqa: PLC0415
        from osworld_env.cluster.pools import Pools  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(("kubernetes", "urllib3")):
            raise
        raise CliError("this command needs the Kubernetes client: pip install 'osworld-env[kubectl]'") from error
    with ClusterApi.connect(namespace, context) as api:
        yield Pools(api)
