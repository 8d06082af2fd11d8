"""``osworld-env episodes``: the records that env servers keep of what was played, to look at and to play again."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.markup import escape
from rich.table import Table

from osworld_contract.places import episodes_dir
from osworld_contract.record import RECORD_FILE, TASK_FILE, RecordHead, RecordLine
from osworld_env import terminal
from osworld_env.episode import EpisodePlayer, EpisodeRecord, Shot
from osworld_env.errors import EXIT_FAILURE, BadUsageError, CliError
from osworld_env.page import render_page
from osworld_env.run import DEFAULT_URL, EnvIdxOption, UrlOption, open_client, save_page, show_outcome, show_shot
from osworld_env.script import ScriptStep, read_task

episodes = typer.Typer(
    name="episodes", help="Records of episodes: list, show, replay.", no_args_is_help=True, rich_markup_mode=None
)

FolderOption = Annotated[
    Path | None, typer.Option("--dir", help="Folder of the records.", show_default="the cache's episodes")
]
IdArgument = Annotated[str, typer.Argument(metavar="EPISODE", help="Id of an episode, or how it begins.")]


@episodes.command("list")
def list_episodes(
    directory: FolderOption = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the latest first.")] = 20,
) -> None:
    """List the latest episodes: when, task, calls, score or fault."""
    root = directory or episodes_dir()
    records = sorted(
        ((read_head(folder), folder) for folder in _folders(root)), key=lambda pair: pair[0].began, reverse=True
    )
    table = Table(title=f"{len(records)} episodes in {root}", title_justify="left")
    for heading in ("episode", "began", "task", "steps", "outcome"):
        table.add_column(heading)
    heirs = _heirs(head for head, _ in records)
    for head, folder in records[:limit]:
        record = read_record(folder)
        record.went_on_as = heirs.get(head.episode_id)
        steps = sum(shot.operation == "step" for shot in record.shots)
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(head.began))
        table.add_row(head.episode_id[:12], began, escape(head.task_id), str(steps), record.story)
    terminal.out.print(table)


@episodes.command()
def show(
    episode: IdArgument,
    directory: FolderOption = None,
    page: Annotated[
        Path | None, typer.Option(help="Where to write the filmstrip.", show_default="in the record")
    ] = None,
) -> None:
    """Print the calls of an episode, and write its filmstrip as an HTML page."""
    root = directory or episodes_dir()
    folder = find(root, episode)
    record = read_record(folder)
    record.went_on_as = _heirs(_heads(root)).get(folder.name)
    terminal.out.print(f"{record.name}: {record.instruction}", markup=False)
    for shot in record.shots:
        show_shot(shot)
    path = page or folder / "index.html"
    try:
        path.write_text(render_page(f"Episode of {record.name}", [record], path.parent), encoding="utf-8")
    except OSError as error:
        raise CliError(f"the page {path} cannot be written: {error.strerror}") from error
    terminal.out.print(f"page: {path}", markup=False)
    terminal.out.print(record.story, markup=False)


@episodes.command()
def replay(
    episode: IdArgument,
    url: UrlOption = DEFAULT_URL,
    env_idx: EnvIdxOption = None,
    directory: FolderOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder for screenshots and page.")] = None,
) -> None:
    """Play the predictions of an episode again on an env, and compare the scores.

    Exit code 0 when the score is that of the record, 1 when it is another one or a fault came.
    """
    folder = find(directory or episodes_dir(), episode)
    before = read_record(folder)
    script = [ScriptStep(shot.prediction) for shot in before.shots if shot.prediction is not None]
    target = out or Path("out") / f"replay-{folder.name[:12]}"
    with open_client(url, env_idx) as client:
        terminal.out.print(f"Playing {before.name} again at {client.address.url}", markup=False)
        record = EpisodePlayer(client, target, show_shot).play(before.name, read_task(folder / TASK_FILE), script)
    terminal.out.print(f"page: {save_page(f'Replay of {before.name}', [before, record], target)}", markup=False)
    show_outcome(record)
    terminal.out.print(f"the record: {before.outcome}", markup=False)
    if record.fault is not None or record.score != before.score:
        raise typer.Exit(EXIT_FAILURE)


def find(root: Path, episode: str) -> Path:
    """Return the folder of the one episode under `root` whose id begins with `episode`.

    Raises:
        BadUsageError: None does, or several do.
    """
    found = [folder for folder in _folders(root) if folder.name.startswith(episode)]
    if len(found) != 1:
        how_many = "no episode" if not found else f"{len(found)} episodes"
        raise BadUsageError(f"{how_many} in {root} begin with {episode!r}; `osworld-env episodes list` names them")
    return found[0]


def read_head(folder: Path) -> RecordHead:
    """Return which episode the record in `folder` is of.

    Raises:
        CliError: It cannot be read.
    """
    try:
        with (folder / RECORD_FILE).open(encoding="utf-8") as file:
            return RecordHead.model_validate_json(file.readline())
    except OSError as error:
        raise CliError(f"the record {folder} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise CliError(f"the record {folder} is not of the form that this version reads") from error


def read_record(folder: Path) -> EpisodeRecord:
    """Return the episode that is recorded in `folder`. A last line that was cut off is left out.

    Raises:
        CliError: It cannot be read.
    """
    head = read_head(folder)
    record = EpisodeRecord(name=head.task_id, instruction=head.instruction, replay_of=head.replay_of)
    lines = (folder / RECORD_FILE).read_text(encoding="utf-8").splitlines()[1:]
    for number, text in enumerate(lines, start=1):
        try:
            line = RecordLine.model_validate_json(text)
        except ValidationError as error:
            if number == len(lines):  # the env server was killed while it wrote
                break
            raise CliError(f"line {number + 1} of {folder / RECORD_FILE} is not of the form that is read") from error
        screenshot = None if line.screenshot is None else folder / Path(line.screenshot).name
        shot = Shot(
            line.operation,
            line.duration_s,
            line.prediction,
            screenshot,
            line.is_done,
            line.format_reward,
            line.fault,
            line.replayed,
        )
        record.shots.append(shot)
        record.score, record.fault = line.score, line.fault
    return record


def _heads(root: Path) -> Iterator[RecordHead]:
    """Yield those that can be read: a record may be at its very beginning."""
    for folder in _folders(root):
        with contextlib.suppress(CliError):
            yield read_head(folder)


def _heirs(heads: Iterable[RecordHead]) -> dict[str, str]:
    """Return which episode goes on with which lost one."""
    return {head.replay_of: head.episode_id for head in heads if head.replay_of is not None}


def _folders(root: Path) -> list[Path]:
    try:
        return [folder for folder in root.iterdir() if (folder / RECORD_FILE).is_file()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CliError(f"the folder {root} cannot be read: {error.strerror}") from error
