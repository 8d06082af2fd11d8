"""The live table of ``up``: one row for each env. Pure: views to a table."""

import time
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from osworld_contract.redact import redact
from osworld_contract.wire import Phase
from osworld_env.keeper import KeeperState
from osworld_env.pool import EnvView

_COLOURS = {
    Phase.IDLE: "dim",
    Phase.RESETTING: "yellow",
    Phase.RUNNING: "cyan",
    Phase.EVALUATING: "yellow",
    Phase.EVALUATED: "green",
    Phase.FAULTED: "red",
}
_FAULT_SHOWN_CHARS = 60


def live_table(title: str, views: Sequence[EnvView], now: float | None = None) -> Table:
    """Return the table of `views`; `now` is Unix time in seconds."""
    table = Table(title=title, title_justify="left", caption="Ctrl-C stops all", caption_justify="left")
    for heading in ("env_idx", "pid", "port", "phase", "step", "since", "desktop", "fault"):
        table.add_column(heading, justify="right" if heading in ("env_idx", "pid", "port", "step", "since") else "left")
    moment = time.time() if now is None else now
    for view in views:
        table.add_row(*_row(view, moment))
    return table


def ago(seconds: float) -> str:
    """Return a duration as a person reads it."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _row(view: EnvView, now: float) -> tuple[str, ...]:
    start = ("spare" if view.env_idx is None else str(view.env_idx), str(view.pid or "-"), str(view.port or "-"))
    state = view.state
    if state is None:
        word = "no answer" if view.keeper is KeeperState.READY else str(view.keeper)
        return (*start, f"[red]{word}[/]", "-", "-", "-", "")
    colour = _COLOURS.get(state.phase, "default")
    phase = "draining" if state.is_draining else str(state.phase)
    fault = f"{state.fault.header}: {state.fault.message}"[:_FAULT_SHOWN_CHARS] if state.fault else ""
    return (
        *start,
        f"[{colour}]{phase}[/]",
        str(state.step),
        ago(now - state.since),
        escape(f"{state.desktop.provider} {state.desktop.state}"),
        f"[red]{escape(redact(fault))}[/]" if fault else "",
    )
