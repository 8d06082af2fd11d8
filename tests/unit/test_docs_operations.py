"""docs/operations.md says what the code says: settings, metrics, faults, log lines. All links lead somewhere."""

import ast
import re
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import pytest
from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families
from pydantic import AliasChoices, SecretStr, StringConstraints
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from osworld_contract.faults import SPECS
from osworld_contract.names import METRIC_PREFIX
from osworld_contract.places import cache_dir, run_dir
from osworld_contract.settings import ENV_PREFIX
from osworld_env.settings import ClientSettings
from osworld_envpod.desktops.rundir import LONGEST_SOCKET, PREFIX, SOCKET_PATH_MAX
from osworld_envpod.metrics import EnvMetrics
from osworld_envpod.settings import EnvServerSettings
from osworld_node.metrics import NodeMetrics
from osworld_node.settings import NodeSettings
from osworld_operator.metrics import OperatorMetrics
from osworld_operator.settings import OperatorSettings
from osworld_router.metrics import Metrics
from osworld_router.settings import RouterSettings
from tasks_of import task_config

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = ROOT / "docs" / "operations.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PARTS = ("client", "contract", "envpod", "guest", "router")
UNSET = "\N{EN DASH}"
MIRROR_TASK = "libreoffice_calc/1273e544-688f-496b-8d89-3e0f40aa0606"
PLACEHOLDERS = {"KIND/REASON": "%s", "METHOD": "%s"}
"""What the table of log lines writes where the line itself has something else each time."""


def rows(name: str) -> list[list[str]]:
    """Return the cells of the tables between the marks `name`, without their heads."""
    text = OPERATIONS.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name}:begin [^\n]*-->\n(.*?)<!-- {name}:end -->", text, re.DOTALL)
    assert found is not None, f"docs/operations.md has lost the marks {name}"
    tables = [block.splitlines()[2:] for block in found[1].strip().split("\n\n")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for table in tables for line in table]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def variable(name: str, field: FieldInfo) -> str:
    if isinstance(field.validation_alias, AliasChoices):
        return str(field.validation_alias.choices[0])
    return f"{ENV_PREFIX}{name.upper()}"


def default_of(field: FieldInfo) -> str:
    value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    if field.is_required():
        return "required"
    if value is None or value == "":
        return UNSET
    if isinstance(value, bool):
        return f"`{int(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def type_of(field: FieldInfo) -> Any:
    if get_origin(field.annotation) in {Union, UnionType}:
        return next(part for part in get_args(field.annotation) if part is not type(None))
    return field.annotation


def accepted(field: FieldInfo) -> str:
    kind = type_of(field)
    choices: tuple[object, ...] = get_args(kind) if get_origin(kind) is Literal else ()
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        choices = tuple(kind)
    if kind is bool:
        choices = (0, 1)
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if kind in {int, float}:
        return _bounds(field.metadata)
    if kind is Path:
        return "path"
    for item in field.metadata:
        if isinstance(item, StringConstraints) and item.pattern:
            return f"`{str(item.pattern).strip('^$')}`"
        if isinstance(item, StringConstraints) and item.max_length:
            return f"text, at most {item.max_length} characters"
    return "text"


def _bounds(metadata: list[Any]) -> str:
    least = next((f"{item.ge:g}" for item in metadata if isinstance(item, annotated_types.Ge)), None)
    above = next((f"{item.gt:g}" for item in metadata if isinstance(item, annotated_types.Gt)), None)
    most = next((item.le for item in metadata if isinstance(item, annotated_types.Le)), None)
    low = least if least is not None else f"over {above},"
    return f"{low} to {most}" if most is not None else f"at least {low}"


@pytest.mark.parametrize(
    ("mark", "model"),
    [
        ("env-settings", EnvServerSettings),
        ("router-settings", RouterSettings),
        ("operator-settings", OperatorSettings),
        ("node-settings", NodeSettings),
    ],
)
def test_settings_are_those_of_the_model(mark: str, model: type[BaseSettings]) -> None:
    fields = model.model_fields.items()
    due = [[f"`{variable(name, field)}`", default_of(field), accepted(field)] for name, field in fields]
    assert [row[:3] for row in rows(mark)] == due
    assert all(len(row) == 4 and row[3] for row in rows(mark))


def test_every_secret_is_listed() -> None:
    text = OPERATIONS.read_text(encoding="utf-8").partition("\n## Secrets\n")[2]
    models = (EnvServerSettings, RouterSettings, ClientSettings)
    secrets = {
        variable(name, field)
        for model in models
        for name, field in model.model_fields.items()
        if type_of(field) is SecretStr
    }
    assert secrets == {name for line in text.splitlines() if line.startswith("| `") for name in codes(line)[:1]}


def metrics_of(owner: object) -> list[MetricWrapperBase]:
    return [value for value in vars(owner).values() if isinstance(value, MetricWrapperBase)]


def row_of(metric: MetricWrapperBase) -> tuple[str, str, frozenset[str]]:
    family = next(iter(metric.collect()))
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return name, family.type, frozenset(metric._labelnames)


METRICS = [
    ("env-metrics", EnvMetrics()),
    ("router-metrics", Metrics()),
    ("operator-metrics", OperatorMetrics()),
    ("node-metrics", NodeMetrics()),
]


@pytest.mark.parametrize(("mark", "owner"), METRICS)
def test_metrics_are_those_of_the_registry(mark: str, owner: object) -> None:
    table = {(codes(row[0])[0], row[1], frozenset(codes(row[2]))) for row in rows(mark)}
    assert table == {row_of(metric) for metric in metrics_of(owner)}


def test_no_metric_is_hidden_from_the_tables() -> None:
    env, router = EnvMetrics(), Metrics()
    shown = {family.name for family in env.registry.collect()}
    shown |= {family.name for family in text_string_to_metric_families(router.exposition().decode())}
    ours = {name.removesuffix("_total") for name in shown if name.startswith(METRIC_PREFIX)}
    assert ours == {row_of(metric)[0].removesuffix("_total") for owner in (env, router) for metric in metrics_of(owner)}


def test_no_histogram_has_a_label_of_one_env() -> None:
    histograms = [metric for _, owner in METRICS for metric in metrics_of(owner)]
    labels = {label for metric in histograms if isinstance(metric, Histogram) for label in metric._labelnames}
    assert not labels & {"env_idx", "task", "task_id", "pod", "uid"}


def test_runbook_has_each_fault_once() -> None:
    named = [codes(row[0]) for row in rows("runbook")]
    assert named == [[f"{spec.kind}/{reason}"] for reason, spec in SPECS.items()]
    assert all(len(row) == 4 and all(row) for row in rows("runbook"))


def test_log_lines_are_in_the_sources() -> None:
    texts = texts_of_the_sources()
    lines = [line.removesuffix(":") for row in rows("log-lines") for line in codes(row[0])]
    for placeholder, formatted in PLACEHOLDERS.items():
        lines = [line.replace(placeholder, formatted) for line in lines]
    assert lines
    assert [line for line in lines if not any(line in text for text in texts)] == []


def texts_of_the_sources() -> set[str]:
    """Return the string literals of all parts."""
    modules = (path for part in PARTS for path in (ROOT / part).rglob("*.py"))
    nodes = (node for path in modules for node in ast.walk(ast.parse(path.read_bytes())))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_longest_cache_path_is_the_one_that_sockets_leave() -> None:
    folder = run_dir().relative_to(cache_dir()) / f"{PREFIX}{'0' * 8}"
    left = SOCKET_PATH_MAX - len(LONGEST_SOCKET) - len(f"/{folder}")
    assert f"at most {left} bytes" in OPERATIONS.read_text(encoding="utf-8")


def test_mirror_example_is_about_a_real_task() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    task = str(task_config(MIRROR_TASK))
    urls = set(re.findall(r"https://drive\.google\.com/[^'\"\s]+", text))
    assert MIRROR_TASK in text
    assert len(urls) == 2
    assert [url for url in urls if url not in task] == []


def test_kernel_settings_are_those_that_the_check_names() -> None:
    preflight = (ROOT / "envpod/osworld_envpod/desktops/xvfb/preflight.py").read_text(encoding="utf-8")
    commands = set(re.findall(r"run `(sudo sysctl [^`]+)`", preflight))
    assert commands
    text = OPERATIONS.read_text(encoding="utf-8")
    assert [command for command in commands if f"`{command}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert not broken


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
