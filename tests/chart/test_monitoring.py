"""Alerts as Prometheus sees them, and the metrics that they and the dashboard ask for."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import Metric

from chart.rendering import FILES, ROOT, of_kind
from cluster.helm import EVERYTHING
from osworld_contract.names import METRIC_PREFIX
from osworld_envpod.metrics import EnvMetrics
from osworld_node.metrics import NodeMetrics
from osworld_operator.metrics import OperatorMetrics
from osworld_router.metrics import Metrics


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    [rule] = of_kind("PrometheusRule", EVERYTHING)
    alerts = tmp_path / "alerts.yaml"
    alerts.write_text(yaml.safe_dump(rule["spec"]))
    tests = (Path(__file__).parent / "alerts_test.yaml").read_text().replace("ALERTS", str(alerts))
    path = tmp_path / "test.yaml"
    path.write_text(tests)
    promtool = shutil.which("promtool")
    assert promtool, "install the package prometheus"
    done = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    named = {item["alert"] for group in rule["spec"]["groups"] for item in group["rules"]}
    assert named == set(re.findall(r"alertname: (\w+)", tests))
    assert {f"`{name}`" for name in named} <= set(
        re.findall(r"`OSWorld\w+`", (ROOT / "docs/operations.md").read_text())
    )


@pytest.mark.parametrize("file", ["alerts.yaml", "dashboard.json"])
def test_alerts_and_dashboard_ask_for_metrics_that_exist(file: str) -> None:
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    known = {f"{family.name}{suffix}" for family in families() for suffix in ("", *suffixes.get(family.type, ()))}
    asked = asked_for(file)
    assert asked
    assert asked <= known


def test_the_dashboard_shows_every_counter() -> None:
    counters = {f"{family.name}_total" for family in families() if family.type == "counter"}
    assert {name for name in counters if name.startswith(METRIC_PREFIX)} <= asked_for("dashboard.json")


def asked_for(file: str) -> set[str]:
    """Return the metrics that `file` of the chart asks for."""
    return set(re.findall(r"osworld_[a-z_]+", (FILES / file).read_text()))


def families() -> list[Metric]:
    """Return what all parts count and measure."""
    registries = (EnvMetrics().registry, OperatorMetrics().registry, NodeMetrics().registry, Metrics()._registry)
    return [family for registry in registries for family in registry.collect()]
