"""The chart as helm renders it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from cluster.programs import programs_dir

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "osworld-env"
FILES = CHART / "files"


def helm(*argv: str, values: dict[str, Any] | None = None, is_fine: bool = True) -> str:
    """Run helm with `values` and return what it printed."""
    command = [str(programs_dir() / "helm"), *argv, *(["--values", "-"] if values is not None else [])]
    text = json.dumps(values) if values is not None else None
    done = subprocess.run(command, input=text, text=True, capture_output=True, timeout=60, check=False)
    assert (done.returncode == 0) is is_fine, done.stdout + done.stderr
    return done.stdout + done.stderr if not is_fine else done.stdout


def rendered(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return what the chart makes of `values`."""
    text = helm("template", "osw", str(CHART), "--namespace", "osworld-system", values=values or {})
    return [item for item in yaml.safe_load_all(text) if item]


def of_kind(kind: str, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [item for item in rendered(values) if item["kind"] == kind]
