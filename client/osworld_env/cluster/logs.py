"""``pool logs``: what an env says, wherever it is."""

import re
from collections import deque
from collections.abc import Iterable
from typing import Annotated, Final

import typer

from osworld_contract.kube_names import CONTAINER_SERVER, LABEL_ENV_EPOCH
from osworld_env import terminal
from osworld_env.cluster.log_lines import LogLine, LogPrinter
from osworld_env.cluster.options import ContextOption, NameArgument, NamespaceOption, open_pools
from osworld_env.errors import BadUsageError, GoneError

TAIL_LINES: Final = 100


def logs(  # noqa: PLR0913, PLR0917 - one parameter for each option
    name: NameArgument,
    env: Annotated[int, typer.Option("--env", min=0, help="The env_idx.")],
    is_followed: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on, also when the env moves to another pod, until Ctrl-C.")
    ] = False,
    grep: Annotated[str | None, typer.Option(help="Only lines in which this regular expression is found.")] = None,
    tail: Annotated[int, typer.Option(min=0, help="How many lines of what there is already; 0 none.")] = TAIL_LINES,
    container: Annotated[str, typer.Option("--container", "-c", help="server or desktop.")] = CONTAINER_SERVER,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Show the log of an env. Each line begins with env_idx, epoch, pod and task id."""
    try:
        pattern = None if grep is None else re.compile(grep)
    except re.error as error:
        raise BadUsageError(f"--grep {grep!r} is no regular expression: {error}") from error

    def printer(epoch: int, pod: str) -> LogPrinter:
        return LogPrinter(env, epoch, pod, pattern)

    def say(text: str) -> None:
        terminal.out.print(text, markup=False, emoji=False)

    with open_pools(namespace, context) as pools:
        pools.one(name)
        holders = pools.holders(name, env)
        if not holders and not is_followed:
            raise GoneError(f"no pod of {name} has env_idx {env} now; `osworld-env pool get {name}` shows them")
        first = None
        if holders:
            head = holders[-1]["metadata"]
            first = printer(int(head["labels"].get(LABEL_ENV_EPOCH, 0)), head["name"])
            for text in show_past(first, pools.log_lines(first.pod, container, "", follow=False), tail):
                say(text)
        if is_followed:
            from osworld_env.cluster.follow import Wish, follow  # noqa: PLC0415 - needs the extra

            wish = Wish(container, printer, say, lambda text: terminal.err.print(f"note: {text}", markup=False))
            try:
                follow(pools, name, env, wish, first)
            except KeyboardInterrupt:
                return


def show_past(printer: LogPrinter, lines: Iterable[str], tail: int) -> list[str]:
    """Return the last `tail` lines to be shown. All are read: an early one says which task the later ones are of."""
    kept: deque[str] = deque(maxlen=tail)
    for line in lines:
        text = printer.shown(LogLine.parse(line))
        if text is not None:
            kept.append(text)
    return list(kept)
