"""``pool drain``: envs that go after their episodes, their env_idx moved to others by the operator."""

from typing import Annotated, Any

import typer

from osworld_contract.kube_names import LABEL_ENV_IDX
from osworld_env import terminal
from osworld_env.cluster.options import ContextOption, NameArgument, NamespaceOption, open_pools
from osworld_env.errors import BadUsageError, CliError, GoneError


def drain(  # noqa: PLR0913, PLR0917 - one parameter for each option
    name: NameArgument,
    env: Annotated[list[int] | None, typer.Option("--env", min=0, help="An env_idx; can be repeated.")] = None,
    pod: Annotated[list[str] | None, typer.Option("--pod", help="A pod; can be repeated.")] = None,
    node: Annotated[list[str] | None, typer.Option("--node", help="All on a node; can be repeated.")] = None,
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Wait so many seconds until they are gone.")] = 0,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Send pods away: each goes after its episode, its env_idx moves to another pod, and a replacement comes.

    No episode is cut off. Cordon a node first, else the replacement may come to the same one.
    """
    if not (env or pod or node):
        raise BadUsageError("say what to drain: --env, --pod or --node")
    with open_pools(namespace, context) as pools:
        pools.one(name)
        chosen = choose(pools.env_pods(name), env or [], pod or [], node or [])
        for item in chosen:
            pools.send_away(item)
            terminal.out.print(f"{_label(item)} goes after its episode", markup=False)
        if not wait_s:
            return
        left = pools.wait_gone(name, {item["metadata"]["uid"] for item in chosen}, wait_s)
    if left:
        names = ", ".join(_label(item) for item in chosen if item["metadata"]["uid"] in left)
        raise CliError(f"still there after {wait_s:g} s: {names}; `osworld-env pool get {name}` shows their episodes")
    terminal.out.print("all gone")


def choose(pods: list[dict[str, Any]], env_idxs: list[int], names: list[str], nodes: list[str]) -> list[dict[str, Any]]:
    """Return the pods that are meant, each once.

    Raises:
        GoneError: One that is named is not there; then none is drained.
    """
    wanted: dict[str, dict[str, Any]] = {}

    def take(found: list[dict[str, Any]], what: str) -> None:
        if not found:
            raise GoneError(f"the pool has no pod {what}; `osworld-env pool get` shows them")
        wanted.update({item["metadata"]["name"]: item for item in found})

    for idx in env_idxs:
        take([item for item in pods if _idx(item) == str(idx)], f"with env_idx {idx}")
    for name in names:
        take([item for item in pods if item["metadata"]["name"] == name], name)
    for node in nodes:
        take([item for item in pods if item.get("spec", {}).get("nodeName") == node], f"on node {node}")
    return list(wanted.values())


def _idx(pod: dict[str, Any]) -> str | None:
    found: str | None = pod["metadata"].get("labels", {}).get(LABEL_ENV_IDX)
    return found


def _label(pod: dict[str, Any]) -> str:
    idx = _idx(pod)
    name = pod["metadata"]["name"]
    return f"spare {name}" if idx is None else f"env {idx} ({name})"
