"""The chart as helm sees it: strict lint, what it renders, what its schema refuses."""

import json
from typing import Any

import pytest
import yaml

from chart.rendering import CHART, FILES, helm, of_kind, rendered
from cluster.helm import EVERYTHING
from osworld_contract.kube_names import (
    COMPONENT_ENV,
    COMPONENT_ROUTER,
    SECRET_KEY_TOKEN,
    SECRET_KEY_UPSTREAM_TOKEN,
    router_name,
    tokens_secret_name,
)
from osworld_contract.names import ENV_TOKEN, ROUTER_PORT
from osworld_node.settings import NodeSettings
from osworld_operator.children import ChildSettings
from osworld_operator.crd import definition_text
from osworld_operator.owner import labels as router_labels
from osworld_operator.owner import selector
from osworld_operator.settings import OperatorSettings


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


def test_the_node_plugin_is_told_what_its_settings_know() -> None:
    [daemon_set] = of_kind("DaemonSet", EVERYTHING)
    spec = daemon_set["spec"]["template"]["spec"]
    [container] = spec["containers"]
    told = {item["name"]: item.get("value", "n0") for item in container["env"]}
    told["OSWORLD_NODE_PROOF_COMMAND"] = json.loads(told["OSWORLD_NODE_PROOF_COMMAND"])
    settings = NodeSettings(**{name.removeprefix("OSWORLD_").lower(): value for name, value in told.items()})
    assert (settings.node_kvm_slots, settings.node_proof_command) == (16, ("true",))
    assert settings.node_metrics_port == container["ports"][0]["containerPort"]
    assert str(settings.node_kubelet_dir) in {mount["mountPath"] for mount in container["volumeMounts"]}
    labels = daemon_set["spec"]["template"]["metadata"]["labels"]
    assert daemon_set["spec"]["selector"]["matchLabels"].items() <= labels.items()
    [role] = [role for role in of_kind("ClusterRole", EVERYTHING) if "-node-" in role["metadata"]["name"]]
    assert [(rule["resources"], rule["verbs"]) for rule in role["rules"]] == [
        (["nodes"], ["get"]),
        (["nodes/status"], ["patch"]),
    ]
    assert not of_kind("DaemonSet"), "only where it is asked for: it is privileged"


def test_an_operator_stands_by_on_another_node() -> None:
    [deployment] = of_kind("Deployment")
    assert deployment["spec"]["replicas"] == 2
    pod = deployment["spec"]["template"]
    [spread] = pod["spec"]["topologySpreadConstraints"]
    [budget] = of_kind("PodDisruptionBudget")
    for chosen in (spread["labelSelector"], budget["spec"]["selector"]):
        assert chosen["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "DoNotSchedule")
    assert spread["nodeTaintsPolicy"] == "Honor"
    assert "tolerations" not in pod["spec"], "it comes back with its node, where that is soon"
    assert budget["spec"]["maxUnavailable"] == 1


def test_one_operator_alone_blocks_no_drain() -> None:
    values = {"operator": {"replicas": 1}}
    [deployment] = of_kind("Deployment", values)
    assert deployment["spec"]["replicas"] == 1
    assert "topologySpreadConstraints" not in deployment["spec"]["template"]["spec"]
    assert [each["tolerationSeconds"] for each in deployment["spec"]["template"]["spec"]["tolerations"]] == [5, 5]
    assert not of_kind("PodDisruptionBudget", values)


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
    [everywhere] = [role for role in of_kind("ClusterRole", EVERYTHING) if "-operator-" in role["metadata"]["name"]]
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
    standbys = [item for item in rule["from"] if set(item) == {"podSelector"}]
    assert [item["podSelector"] for item in standbys] == [policy["spec"]["podSelector"]]
    routers = [item for item in rule["from"] if set(item) == {"podSelector", "namespaceSelector"}]
    assert [_namespace(item) for item in routers] == namespaces
    router = router_labels("desks", COMPONENT_ROUTER)
    assert all(item["podSelector"]["matchLabels"].items() <= router.items() for item in routers)
    others = [item for item in rule["from"] if "podSelector" not in item]
    assert [_namespace(item) for item in others] == (["prometheus"] if values else [])


def _namespace(peer: dict[str, Any]) -> str | None:
    found: str | None = peer["namespaceSelector"].get("matchLabels", {}).get("kubernetes.io/metadata.name")
    return found


def test_no_right_is_a_wildcard() -> None:
    for role in of_kind("ClusterRole", {"node": {"enabled": True}}):
        for rule in role["rules"]:
            assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])


def test_what_is_not_wanted_is_not_made() -> None:
    values = {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "mine"}}
    kinds = {item["kind"] for item in rendered(values)}
    made = {"CustomResourceDefinition", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"}
    assert kinds == made
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
        ({"operator": {"replicas": 0}}, "replicas"),
        ({"operator": {"resources": {"request": {}}}}, "request"),
        ({"pools": {"egressCidrs": ["10.0.0.1"]}}, "egressCidrs"),
        ({"monitoring": {"podMonitor": {"interval": "soon"}}}, "interval"),
        ({"monitoring": {"podMonitor": {"pools": [{"namespace": "train"}]}}}, "name"),
        ({"monitoring": {"podMonitor": {"pools": [{"name": "desks", "routerToken": {"name": "own"}}]}}}, "key"),
        ({"monitoring": {"rules": True}}, "rules"),
        ({"test": {"pool": "Desks!"}}, "pool"),
        ({"test": {"pool": "desks", "routerToken": {"name": "own"}}}, "key"),
        ({"logLevel": "LOUD"}, "logLevel"),
    ],
)
def test_a_bad_value_is_refused_with_its_name(values: dict[str, Any], named: str) -> None:
    assert named in helm("template", "osw", str(CHART), values=values, is_fine=False)


@pytest.mark.parametrize("router_token", [None, {"name": "own", "key": "password"}], ids=["made", "own"])
def test_a_pools_routers_and_env_servers_are_scraped_with_its_tokens(router_token: dict[str, str] | None) -> None:
    pool = {"name": "desks", "namespace": "train", **({"routerToken": router_token} if router_token else {})}
    monitors = of_kind("PodMonitor", {"monitoring": {"podMonitor": {"enabled": True, "pools": [pool]}}})
    made = tokens_secret_name("desks")
    for component, secret in (
        (COMPONENT_ROUTER, router_token or {"name": made, "key": SECRET_KEY_TOKEN}),
        (COMPONENT_ENV, {"name": made, "key": SECRET_KEY_UPSTREAM_TOKEN}),
    ):
        [found] = [item for item in monitors if item["spec"]["selector"]["matchLabels"] == selector("desks", component)]
        assert found["metadata"]["namespace"] == "train"
        [endpoint] = found["spec"]["podMetricsEndpoints"]
        assert (endpoint["port"], endpoint["authorization"]) == ("http", {"credentials": secret})


@pytest.mark.parametrize("router_token", [None, {"name": "own", "key": "password"}], ids=["made", "own"])
def test_the_test_shows_the_router_the_pools_token(router_token: dict[str, str] | None) -> None:
    values = {
        "test": {"pool": "desks", "namespace": "train", **({"routerToken": router_token} if router_token else {})}
    }
    [pod] = of_kind("Pod", values)
    assert (pod["metadata"]["namespace"], pod["metadata"]["annotations"]["helm.sh/hook"]) == ("train", "test")
    [container] = pod["spec"]["containers"]
    assert container["args"] == ["osworld-env", "check", f"http://{router_name('desks')}:{ROUTER_PORT}"]
    [variable] = container["env"]
    made = {"name": tokens_secret_name("desks"), "key": SECRET_KEY_TOKEN}
    assert variable == {"name": ENV_TOKEN, "valueFrom": {"secretKeyRef": router_token or made}}


def test_every_value_is_in_the_schema_and_is_used() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*.*"))
    for group, content in values.items():
        for name in content if isinstance(content, dict) else ():
            assert set(content) == set(schema["properties"][group]["properties"])
            assert f".Values.{group}.{name}" in templates
