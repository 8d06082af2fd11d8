"""``pool get`` and ``pool url``: what there is, and how a trainer reaches it."""

import time
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from osworld_contract.crd import OSWorldEnv
from osworld_env import terminal
from osworld_env.cluster.options import ContextOption, NameArgument, NamespaceOption, open_pools
from osworld_env.cluster.states import ask_states
from osworld_env.cluster.tables import condition_line, envs_table, pools_table
from osworld_env.cluster.url_check import Verdict, check_way
from osworld_env.cluster.view import READY, EnvRow, env_rows
from osworld_env.cluster.ways import WayKind, find_way
from osworld_env.errors import EXIT_FAILURE, ClusterError

if TYPE_CHECKING:
    from osworld_env.cluster.pools import Pools

PIPED_WIDTH_CHARS: Final = 500
"""Where no person watches, a line is as long as it is: programs cut it as they like."""


class Output(StrEnum):
    """Forms of what ``get`` prints."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Form of the output.")]


def get(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A pool; without it, all are listed.")] = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Pools of all namespaces.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List pools, or the envs of one: env_idx, pod, node, state, task and step of its episode, since when.

    Episodes are asked of the pool's router, through the API server; where there is no way to it, pods are shown alone.
    """
    with open_pools(namespace, context) as pools:
        if name is None:
            envs = pools.all(everywhere=everywhere)
            if output is Output.JSON:
                terminal.out.print_json(data=[env.model_dump(by_alias=True, mode="json") for env in envs])
                return
            print_table(pools_table(envs, with_namespace=everywhere))
            return
        env = pools.one(name)
        rows, trouble = read_rows(pools, env)
    if trouble is not None:
        terminal.err.print(f"note: episodes are not known: {escape(trouble)}")
    if output is Output.JSON:
        terminal.out.print_json(data=[asdict(row) for row in rows])
        return
    print_table(pools_table([env]))
    terminal.out.print()
    print_table(envs_table(rows, time.time()))


def read_rows(pools: "Pools", env: OSWorldEnv) -> tuple[list[EnvRow], str | None]:
    """Return a row for each env of a pool, and why episodes are not in them, or None where they are.

    Raises:
        ClusterError: The pods cannot be had.
    """
    name = env.metadata.name
    pods = pools.env_pods(name)
    try:
        router = pools.ready_router(name)
        if router is None:
            return env_rows(env, pods, {}), "no router of the pool is ready"
        states = ask_states(lambda: pools.forward(router), pools.token(env), range(env.spec.replicas))
    except ClusterError as error:
        return env_rows(env, pods, {}), error.message
    rows = env_rows(env, pods, states)
    is_silent = not states and any(row.state == READY for row in rows)
    return rows, "no env answers through the pool's router" if is_silent else None


def url(
    name: NameArgument,
    via: Annotated[
        WayKind | None, typer.Option(help="The way to the router.", show_default="that of its Service's type")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="The host to write, where it is another one for the trainer.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Try it, from this machine.")] = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Print the line for the trainer's configuration, its token included.

    With --check, exit code 1 where a trainer on this machine could not train, and what is wrong: port closed,
    connection refused, 401, no ready env, no KVM.
    """
    with open_pools(namespace, context) as pools:
        env = pools.one(name)
        token = pools.token(env)
        way = find_way(via, name, pools.router_service(name), pools.nodes(), host)
    terminal.out.print(way.trainer_line(token), markup=False)
    for note in way.notes:
        terminal.err.print(f"note: {note}", markup=False)
    if not check:
        return
    finding = check_way(way, token, env)
    mark = "[bold green]✓[/]" if finding.verdict is Verdict.OK else "[bold red]✗[/]"
    terminal.err.print(f"{mark} {finding.verdict}: {escape(finding.detail)}")
    if finding.hint:
        terminal.err.print(f"  hint: {finding.hint}", markup=False)
    if finding.verdict is not Verdict.OK:
        raise typer.Exit(EXIT_FAILURE)


def print_table(table: Table) -> None:
    """Print a table, folded only where a person's screen is narrower."""
    if terminal.out.is_terminal:
        terminal.out.print(table)
    else:
        terminal.out.print(table, width=PIPED_WIDTH_CHARS)


def describe(env: OSWorldEnv) -> str:
    """Return a pool in one line."""
    return f"{env.metadata.name}: {env.status.ready} of {env.spec.replicas} envs ready; {condition_line(env)}"
