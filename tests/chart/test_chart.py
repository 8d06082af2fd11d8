"""The chart as helm sees it: strict lint, what it renders, what its schema refuses; alerts as Prometheus sees them."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.programs import programs_dir
from osworld_contract.kube_names import COMPONENT_ROUTER
from osworld_envpod.metrics import EnvMetrics
from osworld_operator.children import ChildSettings
from osworld_operator.crd import definition_text
from osworld_operator.metrics import OperatorMetrics
from osworld_operator.owner import labels as router_labels
from osworld_operator.settings import OperatorSettings
from osworld_router.metrics import Metrics

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "osworld-env"
FILES = CHART / "files"
EVERYTHING = {
    "test": {"pool": "desks", "namespace": "train"},
    "images": {"pullSecrets": ["registry"]},
    "operator": {
        "watchNamespaces": ["train", "more"],
        "nodeSelector": {"role": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "priorityClassName": "system-cluster-critical",
        "podAnnotations": {"note": "x"},
    },
    "monitoring": {
        "namespace": "prometheus",
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "rules": {"enabled": True},
        "dashboard": {"enabled": True},
    },
}


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


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_lint_is_strict(values: dict[str, Any]) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), values=values)


def test_the_definition_is_the_one_in_crds_and_is_kept() -> None:
    assert (FILES / "osworldenvs.osworld.dev.yaml").read_text() == definition_text()
    [found] = of_kind("CustomResourceDefinition")
    assert found["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert found["spec"] == yaml.safe_load(definition_text())["spec"]
    assert not of_kind("CustomResourceDefinition", {"crd": {"install": False}})


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_the_operator_is_told_what_its_settings_know(values: dict[str, Any]) -> None:
    [deployment] = of_kind("Deployment", values)
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    told = {item["name"]: item.get("value", "osworld-system") for item in container["env"]}
    [service] = of_kind("Service", values)
    [port] = service["spec"]["ports"]
    reached = f"http://{service['metadata']['name']}.{service['metadata']['namespace']}.svc:{port['port']}"
    assert told["OSWORLD_OPERATOR_URL"] == reached
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    known = {f"OSWORLD_{name.upper()}" for name in OperatorSettings.model_fields}
    assert set(told) == known - {"OSWORLD_OPERATOR_HOST", "OSWORLD_OPERATOR_PORT"}
    [role] = [role for role in of_kind("Role", values) if role["metadata"]["name"].endswith("-lease")]
    assert role["rules"][1]["resourceNames"] == [told["OSWORLD_OPERATOR_LEASE"]]
    fields = {name.removeprefix("OSWORLD_").lower(): value for name, value in told.items()}
    children: ChildSettings = OperatorSettings(**{name: value for name, value in fields.items() if value}).children
    assert children.operator_labels.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert container["ports"][0]["containerPort"] == OperatorSettings.model_fields["operator_port"].default


def test_there_is_never_a_second_operator() -> None:
    [deployment] = of_kind("Deployment")
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})


def test_pods_are_restricted() -> None:
    for pod in (of_kind("Deployment")[0]["spec"]["template"]["spec"], of_kind("Pod", EVERYTHING)[0]["spec"]):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}


def test_with_namespaces_the_operator_has_rights_in_these_alone() -> None:
    [lease] = [role for role in of_kind("Role", EVERYTHING) if role["metadata"]["namespace"] == "osworld-system"]
    assert all(rule["resources"] == ["leases"] for rule in lease["rules"])
    roles = [role for role in of_kind("Role", EVERYTHING) if role is not lease and role != lease]
    assert {role["metadata"]["namespace"] for role in roles} == {"train", "more"}
    [everywhere] = of_kind("ClusterRole", EVERYTHING)
    assert [rule["resources"] for rule in everywhere["rules"]] == [["nodes"], ["tokenreviews"]]
    assert everywhere["rules"][1]["verbs"] == ["create"]


@pytest.mark.parametrize(
    ("values", "namespaces"), [({}, [None]), (EVERYTHING, ["train", "more"])], ids=["everywhere", "in two namespaces"]
)
def test_only_routers_reach_the_operator_and_who_scrapes_it(
    values: dict[str, Any], namespaces: list[str | None]
) -> None:
    [policy] = of_kind("NetworkPolicy", values)
    [deployment] = of_kind("Deployment", values)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    [rule] = policy["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == [OperatorSettings.model_fields["operator_port"].default]
    routers = [item for item in rule["from"] if "podSelector" in item]
    assert [_namespace(item) for item in routers] == namespaces
    router = router_labels("desks", COMPONENT_ROUTER)
    assert all(item["podSelector"]["matchLabels"].items() <= router.items() for item in routers)
    others = [item for item in rule["from"] if "podSelector" not in item]
    assert [_namespace(item) for item in others] == (["prometheus"] if values else [])


def _namespace(peer: dict[str, Any]) -> str | None:
    found: str | None = peer["namespaceSelector"].get("matchLabels", {}).get("kubernetes.io/metadata.name")
    return found


def test_no_right_is_a_wildcard() -> None:
    for role in of_kind("ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])


def test_what_is_not_wanted_is_not_made() -> None:
    values = {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "mine"}}
    kinds = {item["kind"] for item in rendered(values)}
    assert kinds == {"CustomResourceDefinition", "Deployment", "NetworkPolicy", "Service"}
    assert of_kind("Deployment", values)[0]["spec"]["template"]["spec"]["serviceAccountName"] == "mine"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replicas": 2}, "replicas"),
        ({"images": {"enf": "a:1"}}, "enf"),
        ({"images": {"env": ""}}, "env"),
        ({"images": {"env": "a b"}}, "env"),
        ({"images": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"images": {"pullSecrets": "registry"}}, "pullSecrets"),
        ({"crd": {"install": "yes"}}, "install"),
        ({"operator": {"watchNamespaces": "all"}}, "watchNamespaces"),
        ({"operator": {"watchNamespaces": ["A_B"]}}, "watchNamespaces"),
        ({"operator": {"replicas": 2}}, "replicas"),
        ({"operator": {"resources": {"request": {}}}}, "request"),
        ({"pools": {"egressCidrs": ["10.0.0.1"]}}, "egressCidrs"),
        ({"monitoring": {"podMonitor": {"interval": "soon"}}}, "interval"),
        ({"monitoring": {"rules": True}}, "rules"),
        ({"test": {"pool": "Desks!"}}, "pool"),
        ({"logLevel": "LOUD"}, "logLevel"),
    ],
)
def test_a_bad_value_is_refused_with_its_name(values: dict[str, Any], named: str) -> None:
    assert named in helm("template", "osw", str(CHART), values=values, is_fine=False)


def test_every_value_is_in_the_schema_and_is_used() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*.*"))
    for group, content in values.items():
        for name in content if isinstance(content, dict) else ():
            assert set(content) == set(schema["properties"][group]["properties"])
            assert f".Values.{group}.{name}" in templates


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
    asked = set(re.findall(r"osworld_[a-z_]+", (FILES / file).read_text()))
    registries = (EnvMetrics().registry, OperatorMetrics().registry, Metrics()._registry)
    families = [family for registry in registries for family in registry.collect()]
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    known = {f"{family.name}{suffix}" for family in families for suffix in ("", *suffixes.get(family.type, ()))}
    assert asked
    assert asked <= known
