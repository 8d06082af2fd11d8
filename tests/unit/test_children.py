"""Manifests of a pool's children: what Pod Security asks for, who holds a secret, and settings that are known.

Over 300 lines: most rules are held against env pods and routers alike, made from the same few specs.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices
from pydantic_settings import BaseSettings

from osworld_contract.crd import OSWorldEnv
from osworld_contract.crd.placement import HostPathCache
from osworld_contract.kube_names import LABEL_ENV_IDX, LABEL_POOL, LABEL_REVISION, LABEL_SLOT, OPERATOR_AUDIENCE
from osworld_contract.places import CACHE_VARIABLE, SHARED_VARIABLE, episodes_dir, fetched_image_dir, run_dir
from osworld_envpod.desktops.qemu.settings import QemuSettings
from osworld_envpod.settings import EnvServerSettings
from osworld_envpod.tasks.settings import WorkerSettings
from osworld_operator.children import (
    ChildSettings,
    applied_children,
    env_pod,
    env_selector_text,
    pod_revision,
    service_url,
    tokens_secret,
)
from osworld_router.settings import RouterSettings
from pools import QEMU, pool

SETTINGS = ChildSettings("osworld/env:1", "osworld/desktop:1", "osworld/router:1", "osworld-system")
ASKABLE = replace(SETTINGS, operator_url="http://operator.system.svc:15002")


def env(**spec: Any) -> OSWorldEnv:
    body = pool(**spec)
    body["metadata"] |= {"uid": "u-1", "namespace": "train"}
    return OSWorldEnv.model_validate(body)


QEMU_KVM = {"desktop": {**QEMU, "accelerator": "kvm"}}
QEMU_TCG = {"desktop": {**QEMU, "accelerator": "tcg"}}
EVERYTHING = {
    "desktop": {**QEMU, "password": {"secretRef": {"name": "guest", "key": "password"}}},
    "tasks": {"secretRef": {"name": "openai"}, "mirror": "/mirror"},
    "router": {"auth": {"secretRef": {"name": "mine"}}},
    "podTemplate": {"volumes": [{"name": "mirror", "mountPath": "/mirror", "source": {"nfs": {"server": "s"}}}]},
}
SPECS: list[dict[str, Any]] = [{}, QEMU_KVM, QEMU_TCG, EVERYTHING]


def pod_of(spec: dict[str, Any]) -> dict[str, Any]:
    return env_pod(env(**spec), SETTINGS, 7)


def containers(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = manifest["spec"]
    spec = spec["template"]["spec"] if "template" in spec else spec
    return {container["name"]: container for container in spec["containers"]}


def variables(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in container.get("env", ())}


def of_kind(children: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    return (child for child in children if child["kind"] == kind)


def known_variables(settings: type[BaseSettings]) -> set[str]:
    """Return the variables that `settings` reads."""
    prefix = settings.model_config["env_prefix"]
    found = set()
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        names = alias.choices if isinstance(alias, AliasChoices) else [f"{prefix}{name.upper()}"]
        found |= {str(choice) for choice in names}
    return found


@pytest.mark.parametrize("spec", SPECS)
def test_every_variable_of_an_env_pod_is_a_setting_of_the_env_server(spec: dict[str, Any]) -> None:
    given = variables(containers(pod_of(spec))["server"])
    assert set(given) <= known_variables(EnvServerSettings) | {CACHE_VARIABLE, SHARED_VARIABLE}


@pytest.mark.parametrize("spec", SPECS)
def test_the_env_server_takes_the_values_that_it_is_given(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, variable in variables(containers(pod_of(spec))["server"]).items():
        monkeypatch.setenv(name, variable.get("value", "from-a-secret"))
    settings = EnvServerSettings(_env_file=None)
    settings.refuse_open_door()
    assert settings.pool == "desks"
    assert settings.reset_timeout_s == 360
    assert settings.worker_sandbox is False


@pytest.mark.parametrize("spec", SPECS)
def test_every_variable_of_a_router_is_a_setting_of_the_router(spec: dict[str, Any]) -> None:
    (deployment,) = of_kind(applied_children(env(**spec), SETTINGS), "Deployment")
    assert set(variables(containers(deployment)["router"])) <= known_variables(RouterSettings)


def test_a_router_asks_the_operator_for_moves_with_a_token_for_that_alone() -> None:
    (deployment,) = of_kind(applied_children(env(), ASKABLE), "Deployment")
    router = containers(deployment)["router"]
    told = {name: item.get("value") for name, item in variables(router).items()}
    assert told["OSWORLD_ROUTER_MOVE_URL"] == f"http://operator.system.svc:15002/pools/train/{env().metadata.name}"
    assert told["OSWORLD_ROUTER_HEDGE_AFTER_S"] == "30"
    [volume] = deployment["spec"]["template"]["spec"]["volumes"]
    [source] = volume["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == OPERATOR_AUDIENCE
    [mount] = router["volumeMounts"]
    assert mount["name"] == volume["name"] and mount["readOnly"]
    path = f"{mount['mountPath']}/{source['serviceAccountToken']['path']}"
    assert told["OSWORLD_ROUTER_MOVE_TOKEN_FILE"] == path


def test_without_an_address_of_the_operator_routers_ask_nobody() -> None:
    (deployment,) = of_kind(applied_children(env(), SETTINGS), "Deployment")
    assert not [name for name in variables(containers(deployment)["router"]) if "MOVE" in name]


@pytest.mark.parametrize("spec", SPECS)
def test_pods_meet_the_restricted_level_with_a_read_only_root(spec: dict[str, Any]) -> None:
    (deployment,) = of_kind(applied_children(env(**spec), SETTINGS), "Deployment")
    for manifest in (pod_of(spec)["spec"], deployment["spec"]["template"]["spec"]):
        context = manifest["securityContext"]
        assert context["runAsNonRoot"] and context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(manifest)
        for container in manifest["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"].get("runAsUser", 1) > 0


def test_the_restricted_level_takes_the_volumes_unless_the_cache_is_a_folder_of_the_node() -> None:
    allowed = {"emptyDir", "persistentVolumeClaim", "configMap", "secret", "projected", "downwardAPI", "csi"}
    for spec in ({}, QEMU_KVM, {"cache": {"persistentVolumeClaim": {"claimName": "images"}}}):
        for volume in pod_of(spec)["spec"]["volumes"]:
            assert set(volume) - {"name"} <= allowed
    volumes = pod_of({"cache": {"hostPath": {"path": "/srv/osworld"}}})["spec"]["volumes"]
    assert volumes[0]["hostPath"] == {"path": "/srv/osworld", "type": "DirectoryOrCreate"}


def test_what_env_servers_keep_is_on_volumes_that_need_no_folder_made_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    server = containers(pod_of(QEMU_KVM))["server"]
    for name, variable in variables(server).items():
        monkeypatch.setenv(name, variable.get("value", "from-a-secret"))
    mounts = {Path(mount["mountPath"]): mount["name"] for mount in server["volumeMounts"]}
    assert not [mount for mount in server["volumeMounts"] if "subPath" in mount], "a kubelet makes them for root"
    machine = QemuSettings(run_dir=run_dir())
    worker = WorkerSettings(run_dir())
    kept = (fetched_image_dir(), episodes_dir(), machine.template_dir, machine.snapshot_dir, worker.download_dir)
    for folder, volume in {**dict.fromkeys(kept, "cache"), run_dir(): "run"}.items():
        assert [name for path, name in mounts.items() if folder.is_relative_to(path)] == [volume], folder
    assert not any(worker.python.is_relative_to(path) for path in mounts), "the container image's own"


@pytest.mark.parametrize(
    ("cache", "are_kept"),
    [
        (None, False),
        ({"emptyDir": {}}, False),
        ({"hostPath": {"path": "/srv/osworld"}}, True),
        ({"persistentVolumeClaim": {"claimName": "images"}}, True),
    ],
)
def test_task_snapshots_are_kept_where_envs_share_them(cache: dict[str, Any] | None, are_kept: bool) -> None:
    spec = {**QEMU_KVM, **({"cache": cache} if cache else {})}
    given = variables(containers(pod_of(spec))["server"])["OSWORLD_TASK_SNAPSHOTS"]["value"]
    assert given == str(are_kept).lower()
    switched_off = {**spec, "snapshots": {"tasks": {"enabled": False}}}
    assert variables(containers(pod_of(switched_off))["server"])["OSWORLD_TASK_SNAPSHOTS"]["value"] == "false"


@pytest.mark.parametrize("spec", SPECS)
def test_mounts_and_volumes_belong_together(spec: dict[str, Any]) -> None:
    manifest = pod_of(spec)["spec"]
    mounted = {mount["name"] for container in manifest["containers"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in manifest["volumes"]}


@pytest.mark.parametrize("spec", SPECS)
def test_env_pods_have_no_service_account_token(spec: dict[str, Any]) -> None:
    assert pod_of(spec)["spec"]["automountServiceAccountToken"] is False


def test_the_agents_container_holds_no_secret_and_no_way_to_write_the_control_folder() -> None:
    parts = containers(pod_of({"tasks": {"secretRef": {"name": "openai"}}}))
    desktop = parts["desktop"]
    assert set(parts) == {"server", "desktop"}
    assert "env" not in desktop and "envFrom" not in desktop
    assert "secret" not in json.dumps(desktop).lower()
    assert desktop["securityContext"]["runAsUser"] != pod_of({})["spec"]["securityContext"]["runAsUser"]
    shared = {mount["name"]: mount for mount in desktop["volumeMounts"]}
    both = set(shared) & {mount["name"] for mount in parts["server"]["volumeMounts"]}
    assert [shared[name]["readOnly"] for name in both] == [True]


def test_a_key_of_the_tasks_reaches_the_server_alone_and_may_be_missing() -> None:
    given = variables(containers(pod_of(EVERYTHING))["server"])
    for name, key in (("OPENAI_API_KEY", "OPENAI_API_KEY"), ("OSWORLD_WORKER_HTTPS_PROXY", "HTTPS_PROXY")):
        assert given[name]["valueFrom"]["secretKeyRef"] == {"name": "openai", "key": key, "optional": True}


def test_a_variable_of_the_pools_own_stands_beside_a_secret_that_lacks_it() -> None:
    own = [{"name": "OPENAI_BASE_URL", "value": "https://model/v1"}]
    given = variables(
        containers(pod_of({"tasks": {"secretRef": {"name": "openai"}}, "podTemplate": {"env": own}}))["server"]
    )
    assert given["OPENAI_BASE_URL"]["value"] == "https://model/v1"


@pytest.mark.parametrize(
    ("spec", "device", "told"),
    [
        (QEMU_KVM, "osworld.dev/kvm", "kvm"),
        ({"desktop": QEMU}, "osworld.dev/kvm", "auto"),
        ({"desktop": QEMU, "scheduling": {"kvmResource": "squat.ai/kvm"}}, "squat.ai/kvm", "auto"),
        ({"desktop": QEMU, "scheduling": {"kvmResource": ""}}, None, "tcg"),
        (QEMU_TCG, None, "tcg"),
    ],
)
def test_the_device_is_asked_for_by_its_name_where_it_is_needed(
    spec: dict[str, Any], device: str | None, told: str
) -> None:
    server = containers(pod_of(spec))["server"]
    devices = {name: count for name, count in server["resources"]["limits"].items() if "/" in name}
    assert devices == ({device: "1"} if device else {})
    assert variables(server)["OSWORLD_QEMU_ACCELERATOR"]["value"] == told


def test_a_pool_of_its_own_variables_cannot_replace_the_token() -> None:
    own = [{"name": "OSWORLD_TOKEN", "value": "x"}, {"name": "OSWORLD_MAX_STEPS", "value": "30"}]
    given = variables(containers(pod_of({"podTemplate": {"env": own}}))["server"])
    assert given["OSWORLD_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "desks-tokens"
    assert given["OSWORLD_MAX_STEPS"]["value"] == "30"


def test_a_pod_is_named_by_its_slot_and_is_nobodys_env_yet() -> None:
    manifest = env_pod(env(podTemplate={"labels": {"team": "a", LABEL_POOL: "other"}}), SETTINGS, 7)
    labels = manifest["metadata"]["labels"]
    assert manifest["metadata"]["name"] == "desks-7"
    assert (labels[LABEL_POOL], labels[LABEL_SLOT], labels["team"]) == ("desks", "7", "a")
    assert LABEL_ENV_IDX not in labels
    assert all(item.split("=") == [name, labels[name]] for item in env_selector_text("desks").split(",")
               for name in [item.split("=")[0]])  # fmt: skip


def test_a_revision_is_the_same_for_all_slots_and_changes_with_the_spec() -> None:
    first, second = (env_pod(env(), SETTINGS, slot)["metadata"]["labels"][LABEL_REVISION] for slot in (0, 1))
    assert first == second == pod_revision(env(), SETTINGS)
    assert pod_revision(env(episode={"maxSteps": 30}), SETTINGS) != first
    assert pod_revision(env(podTemplate={"labels": {"a": "b"}}), SETTINGS) != first
    assert pod_revision(env(replicas=9, spares=3, router={"replicas": 5}), SETTINGS) == first


@pytest.mark.parametrize("spec", SPECS)
def test_every_child_is_owned_by_its_pool_and_in_its_namespace(spec: dict[str, Any]) -> None:
    owner = env(**spec)
    children = [*applied_children(owner, SETTINGS), env_pod(owner, SETTINGS, 0), tokens_secret(owner, "a", "b")]
    for child in children:
        (reference,) = child["metadata"]["ownerReferences"]
        assert (reference["uid"], reference["name"], reference["kind"]) == ("u-1", "desks", "OSWorldEnv")
        assert child["metadata"]["namespace"] == "train"
        assert child["metadata"]["labels"][LABEL_POOL] == "desks"
    assert len({(child["kind"], child["metadata"]["name"]) for child in children}) == len(children)


def test_an_episode_may_end_within_the_grace_period() -> None:
    manifest = pod_of({})["spec"]
    hook = containers(pod_of({}))["server"]["lifecycle"]["preStop"]["exec"]["command"]
    assert hook[:3] == ["python", "-m", "osworld_envpod.drain"]
    assert float(hook[-1]) < manifest["terminationGracePeriodSeconds"]


def test_only_router_and_operator_reach_env_pods() -> None:
    policy = next(of_kind(applied_children(env(), SETTINGS), "NetworkPolicy"))
    (rule,) = policy["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == [18082]
    router, operator = rule["from"]
    assert router == {"podSelector": {"matchLabels": {LABEL_POOL: "desks", "app.kubernetes.io/component": "router"}}}
    assert operator["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "osworld-system"}}


def test_env_pods_reach_the_outside_only_where_they_need_it_and_the_cluster_never() -> None:
    policy = next(of_kind(applied_children(env(), SETTINGS), "NetworkPolicy"))
    outside, dns = policy["spec"]["egress"]
    assert "10.0.0.0/8" in outside["to"][0]["ipBlock"]["except"]
    assert "169.254.0.0/16" in outside["to"][0]["ipBlock"]["except"]
    assert [port["port"] for port in dns["ports"]] == [53, 53]
    closed = next(of_kind(applied_children(env(tasks={"mirror": "/mirror"}), SETTINGS), "NetworkPolicy"))
    assert closed["spec"]["egress"] == []
    assert "Egress" in closed["spec"]["policyTypes"]


@pytest.mark.parametrize(
    ("url", "is_fetched"),
    [
        ("http://images.test/desktop.zip", True),
        ("https://images.test/desktop.zip", True),
        ("s3://images/desktop.zip", True),
        ("oci://registry.test/images/desktop:1", True),
        ("file:/images/desktop.zip", False),
        ("/images/desktop.zip", False),
    ],
)
def test_env_pods_reach_the_outside_for_an_image_that_is_no_path(url: str, is_fetched: bool) -> None:
    spec = {"desktop": {**QEMU, "image": {"url": url}}, "tasks": {"mirror": "/mirror"}}
    policy = next(of_kind(applied_children(env(**spec), SETTINGS), "NetworkPolicy"))
    assert bool(policy["spec"]["egress"]) is is_fetched


def test_the_router_may_read_pods_and_its_own_pool_and_nothing_else() -> None:
    (role,) = of_kind(applied_children(env(), SETTINGS), "Role")
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["osworld.dev"], "resources": ["osworldenvs"], "resourceNames": ["desks"], "verbs": ["get"]},
    ]


def test_routers_are_on_nodes_of_their_own() -> None:
    (deployment,) = of_kind(applied_children(env(), SETTINGS), "Deployment")
    [spread] = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "DoNotSchedule")
    assert (
        spread["labelSelector"]["matchLabels"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    )
    assert spread["nodeTaintsPolicy"] == "Honor", "else one worker beside a closed control plane has one router only"
    assert "tolerations" not in deployment["spec"]["template"]["spec"], "it comes back with its node"


def test_a_router_of_another_object_of_that_name_is_another_pod() -> None:
    """Its Secret is made anew, and a Deployment that was taken over would keep the tokens of the one before."""
    found = env()
    head = found.metadata.model_copy(update={"uid": "another"})
    another = found.model_copy(update={"metadata": head})
    templates = []
    for each in (found, found, another):
        (deployment,) = of_kind(applied_children(each, SETTINGS), "Deployment")
        templates.append(deployment["spec"]["template"])
    first, again, second = templates
    assert first == again != second


def test_a_router_that_is_alone_leaves_a_lost_node_soon() -> None:
    (deployment,) = of_kind(applied_children(env(router={"replicas": 1}), SETTINGS), "Deployment")
    given = deployment["spec"]["template"]["spec"]["tolerations"]
    assert {(each["key"].partition("/")[2], each["tolerationSeconds"]) for each in given} == {
        ("not-ready", 5),
        ("unreachable", 5),
    }


def test_the_router_is_reached_at_its_service() -> None:
    owner = env(router={"service": {"type": "NodePort", "annotations": {"a": "b"}}})
    (service,) = of_kind(applied_children(owner, SETTINGS), "Service")
    assert service["spec"]["type"] == "NodePort"
    assert service["spec"]["ports"][0]["port"] == 15001
    assert service["metadata"]["annotations"] == {"a": "b"}
    assert service_url(owner) == "http://desks-router.train.svc:15001"


def test_a_token_of_the_users_own_is_used() -> None:
    (deployment,) = of_kind(applied_children(env(**EVERYTHING), SETTINGS), "Deployment")
    given = variables(containers(deployment)["router"])
    assert given["OSWORLD_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "mine", "key": "token"}
    assert given["OSWORLD_UPSTREAM_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "desks-tokens"


def test_the_user_that_a_cache_of_the_node_must_let_in_is_named_rightly() -> None:
    said = HostPathCache.model_fields["path"].description or ""
    assert f"user {pod_of({})['spec']['securityContext']['runAsUser']}," in said


def test_a_client_stays_with_one_router() -> None:
    """Another one has not seen its episode, and would give no score."""
    [service] = [item for item in applied_children(env(), SETTINGS) if item["kind"] == "Service"]
    assert service["spec"]["sessionAffinity"] == "ClientIP"
