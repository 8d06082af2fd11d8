"""``pool scale`` and ``pool delete``."""

from typing import Annotated, Final

import typer

from osworld_contract.crd.spec import REPLICAS_MAX
from osworld_env import terminal
from osworld_env.cluster.options import ContextOption, NameArgument, NamespaceOption, open_pools
from osworld_env.errors import BadUsageError

YES: Final = "--yes"


def scale(
    name: NameArgument,
    replicas: Annotated[int, typer.Argument(metavar="REPLICAS", min=0, max=REPLICAS_MAX, help="How many envs.")],
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Change how many envs a pool has. Fewer: the highest env_idx go, each after its episode."""
    with open_pools(namespace, context) as pools:
        before = pools.one(name).spec.replicas
        pools.scale(name, replicas)
    terminal.out.print(f"pool {name}: {before} → {replicas} envs", markup=False)


def delete(
    name: NameArgument,
    yes: Annotated[bool, typer.Option(YES, "-y", help="Do not ask.")] = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Delete a pool with all that belongs to it. Episodes that run have a pod's grace period to end."""
    with open_pools(namespace, context) as pools:
        env = pools.one(name)
        if not yes:
            if not terminal.is_interactive():
                raise BadUsageError(f"nobody can be asked here: pass {YES} to delete pool {name}")
            where = f"{pools.namespace}/{name}"
            typer.confirm(f"Delete pool {where} ({env.spec.replicas} envs, {env.status.busy} busy)?", abort=True)
        pools.delete(name)
    terminal.out.print(f"pool {name}: deleted", markup=False)
