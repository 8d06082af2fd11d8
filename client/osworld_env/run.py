"""``osworld-env run``: one episode from a script, with timings, screenshots and a page."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from osworld_contract.names import ROUTER_PORT
from osworld_contract.task import parse_task
from osworld_env import terminal
from osworld_env.address import AddressError
from osworld_env.client import EnvClient
from osworld_env.episode import EpisodePlayer, EpisodeRecord, Shot
from osworld_env.errors import EXIT_FAILURE, BadUsageError, CliError
from osworld_env.hints import hint_for
from osworld_env.page import render_page
from osworld_env.script import read_script, read_task
from osworld_env.settings import load_settings

DEFAULT_URL = f"http://127.0.0.1:{ROUTER_PORT}"

UrlOption = Annotated[str, typer.Option(help="A router or env server; user info in it is the token.")]
EnvIdxOption = Annotated[int | None, typer.Option("--env-idx", min=0, help="Which env behind the router.")]


def run(
    task_file: Annotated[Path, typer.Argument(metavar="TASK.json", help="A task in OSWorld's JSON form.")],
    script: Annotated[
        Path,
        typer.Option(help="Predictions: JSON lines with 'prediction' (name.jsonl), or text with lines of --- between."),
    ],
    url: UrlOption = DEFAULT_URL,
    env_idx: EnvIdxOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for screenshots and page.", show_default="out/TASK-TIME")
    ] = None,
) -> None:
    """Play one episode: reset, the script's predictions, evaluate.

    Exit code 0 when a score came, whatever it is; 1 on a fault; 2 on a wrong file or option.
    """
    task = read_task(task_file)
    predictions = read_script(script)
    task_id = parse_task(task).id
    folder = out or Path("out") / f"{file_name(task_id)}-{time.strftime('%Y%m%d-%H%M%S')}"
    with open_client(url, env_idx) as client:
        terminal.out.print(f"Playing {task_id} at {client.address.url}", markup=False)
        record = EpisodePlayer(client, folder, show_shot).play(task_id, task, predictions)
    page = save_page(f"Episode of {task_id}", [record], folder)
    terminal.out.print(timings_table(record))
    terminal.out.print(f"page: {page}", markup=False)
    show_outcome(record)
    if record.fault is not None:
        raise typer.Exit(EXIT_FAILURE)


def open_client(url: str, env_idx: int | None) -> EnvClient:
    """Return a client for env `env_idx` behind `url`, or for `url` itself.

    Raises:
        BadUsageError: `url` is no address.
    """
    try:
        return EnvClient(url, token=load_settings().token_text, env_idx=env_idx)
    except AddressError as error:
        raise BadUsageError(str(error)) from error


def file_name(text: str) -> str:
    """Return `text` as a file name without surprises."""
    return "".join(char if char.isalnum() or char in "-_" else "-" for char in text)[:80] or "episode"


def save_page(title: str, records: list[EpisodeRecord], folder: Path) -> Path:
    """Write the page of `records` into `folder` and return its path.

    Raises:
        CliError: It cannot be written.
    """
    page = folder / "index.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page.write_text(render_page(title, records, folder), encoding="utf-8")
    except OSError as error:
        raise CliError(f"the page {page} cannot be written: {error.strerror}") from error
    return page


def show_shot(shot: Shot, prefix: str = "") -> None:
    """Print one line for `shot`."""
    action = "" if shot.prediction is None else shot.prediction.strip().rpartition("Action:")[2].strip()
    note = shot.fault.header if shot.fault else "episode ended" if shot.is_done else ""
    note = f"played again  {note}" if shot.replayed else note
    terminal.out.print(
        f"{prefix}{shot.operation:<8} {shot.duration_s:7.2f} s  {action[:90]}  {note}".rstrip(), markup=False
    )


def timings_table(*records: EpisodeRecord) -> Table:
    """Return the seconds of each operation of `records`, by count, median and longest."""
    table = Table(title="timings", title_justify="left")
    table.add_column("episode")
    table.add_column("operation")
    for heading in ("calls", "median s", "longest s"):
        table.add_column(heading, justify="right")
    for record in records:
        for operation in ("reset", "step", "evaluate"):
            durations = sorted(shot.duration_s for shot in record.shots if shot.operation == operation)
            if durations:
                median, longest = durations[len(durations) // 2], durations[-1]
                row = (str(len(durations)), f"{median:.2f}", f"{longest:.2f}")
                table.add_row(escape(record.name), operation, *row)
    return table


def show_outcome(record: EpisodeRecord) -> None:
    """Print the score, or the fault with what may be done about it."""
    if record.fault is None:
        terminal.out.print(f"[bold]score: {record.score:g}[/]")
        return
    fault = record.fault
    operation = f" during {fault.operation}" if fault.operation else ""
    terminal.show_error(CliError(f"{fault.header}{operation}: {fault.message}", (f"hint: {hint_for(fault)}",)))
