"""The HTML page of played episodes: filmstrips, predictions, timings, score or fault. Pure: records to text.

The page needs no network: styles are inside it, screenshots are files beside it. Every text of a task, a model or a
server is escaped.
"""

import itertools
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final
from urllib.parse import quote

from osworld_contract.redact import redact
from osworld_env.episode import EpisodeRecord, Shot

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --ok: #1a7f4b; --bad: #b3362b; --mute: #777; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1.5rem; max-width: 1400px; }
h1 { font-size: 1.5rem; margin: 0 0 1.5rem; }
h2 { font-size: 1.15rem; margin: 0; }
section { border: 1px solid var(--line); border-radius: 10px; padding: 1.1rem 1.3rem; margin: 0 0 1.5rem; }
header { display: flex; gap: .8rem; align-items: center; flex-wrap: wrap; }
.chip { border-radius: 99px; padding: .1rem .75rem; color: #fff; background: var(--mute); font-weight: 600; }
.chip.full { background: var(--ok); } .chip.fault { background: var(--bad); }
.task { margin: .5rem 0 1rem; } .mute { color: var(--mute); }
.strip { display: flex; gap: 1rem; overflow-x: auto; padding-bottom: .8rem; }
figure { flex: 0 0 340px; margin: 0; }
figure img, .none { width: 100%; box-sizing: border-box; aspect-ratio: 16/9; border: 1px solid var(--line);
  border-radius: 6px; display: block; }
.none { background: var(--soft); display: grid; place-items: center; color: var(--mute); }
figcaption { display: flex; justify-content: space-between; margin: .35rem 0; font-variant-numeric: tabular-nums; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); border-radius: 6px; padding: .5rem .7rem;
  margin: 0; font: 12.5px/1.45 ui-monospace, monospace; max-height: 12rem; overflow-y: auto; }
.bad { color: var(--bad); }
"""

_NOT_PREDICTED: Final = {
    "reset": "the task's setup",
    "step": "its reply reached nobody",
    "replay": "the lost episode, played again",
    "evaluate": "the score",
    "between": "no call was under way",
}
"""What a figure says in place of a prediction, by operation."""


def render_page(title: str, records: Sequence[EpisodeRecord], folder: Path) -> str:
    """Return the page of `records`, to be saved in `folder`; screenshots are named relative to it."""
    body = "\n".join(_episode(record, folder) for record in records)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_text(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _episode(record: EpisodeRecord, folder: Path) -> str:
    chip = "fault" if record.fault else "full" if (record.score or 0.0) >= 1.0 else "part"
    fault = ""
    if record.fault is not None:
        operation = f" during {record.fault.operation}" if record.fault.operation else ""
        fault = f'<p class="bad">{_text(record.fault.header + operation)}: {_text(record.fault.message)}</p>\n'
    steps = sum(shot.operation == "step" for shot in record.shots)
    shown = [shot for shot in record.shots if shot.operation in ("reset", "step") or shot.fault is not None]
    numbers = itertools.accumulate(int(shot.operation == "step") for shot in shown)
    strip = "\n".join(_figure(number, shot, folder) for number, shot in zip(numbers, shown, strict=True))
    return (
        f'<section>\n<header><h2>{_text(record.name)}</h2><span class="chip {chip}">{_text(record.story)}</span>'
        f'<span class="mute">{steps} steps · {_timings(record)}</span></header>\n'
        f'<p class="task">{_text(record.instruction)}</p>\n{fault}<div class="strip">\n{strip}\n</div>\n</section>'
    )


def _timings(record: EpisodeRecord) -> str:
    parts = []
    for operation in ("reset", "step", "evaluate"):
        durations = [shot.duration_s for shot in record.shots if shot.operation == operation]
        if durations:
            label = "mean step" if operation == "step" else operation
            parts.append(f"{label} {sum(durations) / len(durations):.2f} s")
    return " · ".join([*parts, f"total {record.duration_s:.2f} s"])


def _figure(number: int, shot: Shot, folder: Path) -> str:
    label = f"step {number}" if shot.operation == "step" else shot.operation
    if shot.screenshot is not None:
        source = escape(quote(Path(os.path.relpath(shot.screenshot, folder)).as_posix()), quote=True)
        picture = f'<a href="{source}"><img src="{source}" alt="Screen after {label}" loading="lazy"></a>'
    else:
        picture = f'<div class="none">{"fault" if shot.fault else "the episode ended"}</div>'
    note = " · played again" if shot.replayed else ""
    note += f" · format_reward {shot.format_reward:g}" if shot.format_reward else ""
    text = shot.prediction if shot.prediction is not None else _NOT_PREDICTED[shot.operation]
    fault = f'\n<p class="bad">{_text(shot.fault.message)}</p>' if shot.fault else ""
    return (
        f"<figure>{picture}<figcaption><b>{label}</b>"
        f'<span class="mute">{shot.duration_s:.2f} s{note}</span></figcaption><pre>{_text(text)}</pre>{fault}</figure>'
    )


def _text(text: str) -> str:
    return escape(redact(text), quote=True)
