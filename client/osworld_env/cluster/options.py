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
def kubectl_extra() -> Iterator[None]:
    """Import in the block what a trainer's machine does not have.

    Raises:
        CliError: It is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("kubernetes", "urllib3", "yaml"):
            raise
        raise CliError("this command needs the Kubernetes client: pip install 'osworld-env[kubectl]'") from error


@contextmanager
def open_pools(namespace: str | None, context: str | None) -> Iterator["Pools"]:
    """Give the pools of a namespace for the time of the block.

    Raises:
        CliError: The extra ``kubectl`` is not installed.
    """
    with kubectl_extra():  # the library takes a second to import
        from osworld_env.cluster.api import ClusterApi  # noqa: PLC0415
        from osworld_env.cluster.pools import Pools  # noqa: PLC0415
    with ClusterApi.connect(namespace, context) as api:
        yield Pools(api)
