"""Pools and envs as tables in kubectl's manner: no frames, one line each. Pure."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from osworld_contract.crd import ConditionType, OSWorldEnv
from osworld_contract.redact import redact
from osworld_env.cluster.view import NO_POD, EnvRow
from osworld_env.live_table import ago

_COLOURS = {
    "idle": "dim",
    "spare": "dim",
    "running": "cyan",
    "resetting": "yellow",
    "evaluating": "yellow",
    "draining": "yellow",
    "evaluated": "green",
    "faulted": "red",
    "not ready": "red",
    NO_POD: "red",
}


def pools_table(envs: Sequence[OSWorldEnv], *, with_namespace: bool = False) -> Table:
    """Return one row for each pool."""
    table = _table("NAME", "PROVIDER", "READY", "BUSY", "SPARE", "FAULTED", "CONDITION")
    for env in envs:
        name = f"{env.metadata.namespace}/{env.metadata.name}" if with_namespace else env.metadata.name
        status = env.status
        counts = (f"{status.ready}/{env.spec.replicas}", str(status.busy), str(status.spare), str(status.faulted))
        table.add_row(name, str(env.spec.desktop.provider), *counts, escape(condition_line(env)))
    return table


def envs_table(rows: Sequence[EnvRow], now: float) -> Table:
    """Return one row for each env; `now` is Unix time."""
    table = _table("ENV", "POD", "NODE", "EPOCH", "STATE", "TASK", "STEP", "SINCE", "FAULT")
    for row in rows:
        colour = _COLOURS.get(row.state, "default")
        table.add_row(
            _cell(row.env_idx),
            _cell(row.pod),
            _cell(row.node),
            _cell(row.epoch),
            f"[{colour}]{row.state}[/]",
            escape(_cell(row.task)),
            _cell(row.step),
            "-" if row.since is None else ago(now - row.since),
            f"[red]{escape(redact(row.fault))}[/]" if row.fault else "-",
        )
    return table


def condition_line(env: OSWorldEnv) -> str:
    """Return what is to be known about a pool: what is wrong, else what goes on, else that it is ready."""
    conditions = {item.type: item for item in env.status.conditions}
    if not conditions:
        return "no operator has seen it yet"
    degraded, progressing = conditions.get(ConditionType.DEGRADED), conditions.get(ConditionType.PROGRESSING)
    for item in (degraded, progressing, conditions.get(ConditionType.READY)):
        if item is not None and (item.status == "True" or item.type == ConditionType.READY):
            return f"{item.reason}: {redact(item.message)}" if item.message else item.reason
    return "-"


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for heading in headings:
        table.add_column(heading, no_wrap=heading != "CONDITION", justify="right" if heading == "STEP" else "left")
    return table


def _cell(value: object) -> str:
    return "-" if value is None else str(value)
