"""From an OSWorldEnv to one of its env pods. Pure."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

from osworld_contract.crd import OSWorldEnv, OSWorldEnvSpec, Provider
from osworld_contract.crd.placement import Toleration, TopologySpread
from osworld_contract.kube_names import (
    COMPONENT_ENV,
    CONTAINER_DESKTOP,
    CONTAINER_SERVER,
    LABEL_REVISION,
    LABEL_SLOT,
    env_pod_name,
)
from osworld_contract.names import ENV_SERVER_PORT, GUEST_HOSTNAME
from osworld_operator.child_settings import ChildSettings
from osworld_operator.owner import metadata, selector
from osworld_operator.pod_parts import (
    DESKTOP_UID,
    SERVER_UID,
    container_security,
    http_probe,
    image,
    pod_security,
    pull_secrets,
)
from osworld_operator.pod_resources import desktop_resources, server_resources
from osworld_operator.pod_variables import server_variables
from osworld_operator.pod_volumes import (
    control_mount,
    desktop_mounts,
    desktop_volumes,
    server_mounts,
    server_volumes,
)

GRACE_S: Final = 600
"""How long a deleted pod may go on with its episode. A guess: 15 steps at half a minute each, and an evaluate."""

STOP_S: Final = 30
"""Of these, for the stop itself: SIGTERM to the last process gone."""

REVISION_CHARS: Final = 10


def env_pod(env: OSWorldEnv, settings: ChildSettings, slot: int, avoid: Sequence[str] = ()) -> dict[str, Any]:
    """Return the pod in `slot`: a spare, until the operator gives it an env_idx. Better on no node of `avoid`."""
    template = env.spec.pod_template
    name = env_pod_name(env.metadata.name, slot)
    head = metadata(env, name, COMPONENT_ENV, template.labels)
    head["labels"] |= {LABEL_SLOT: str(slot), LABEL_REVISION: pod_revision(env, settings)}
    head["annotations"] = {**template.annotations, "kubectl.kubernetes.io/default-container": CONTAINER_SERVER}
    spec = pod_spec(env, settings)
    if avoid:  # no part of the revision: it is the moment's, and not the spec's
        spec["affinity"] = _away_from(avoid, spec.get("affinity", {}))
    return {"apiVersion": "v1", "kind": "Pod", "metadata": head, "spec": spec}


def pod_revision(env: OSWorldEnv, settings: ChildSettings) -> str:
    """Return a hash of all that an env pod is made from: pods of another revision are outdated."""
    template = env.spec.pod_template
    made_from = [pod_spec(env, settings), template.labels, template.annotations]
    text = json.dumps(made_from, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:REVISION_CHARS]


def pod_spec(env: OSWorldEnv, settings: ChildSettings) -> dict[str, Any]:
    """Return the spec that all env pods of the pool have in common."""
    spec = env.spec
    has_desktop = spec.desktop.provider is Provider.XVFB
    server = _server(env, settings)
    containers, volumes = [server], server_volumes(spec)
    if has_desktop:
        server["volumeMounts"].append(control_mount())
        containers.append(_desktop(spec, settings))
        volumes += desktop_volumes()
    return {
        **({"hostname": GUEST_HOSTNAME} if has_desktop else {}),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "shareProcessNamespace": False,
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": pod_security(SERVER_UID),
        **pull_secrets(settings),
        **_scheduling(env),
        "containers": containers,
        "volumes": volumes,
    }


def _server(env: OSWorldEnv, settings: ChildSettings) -> dict[str, Any]:
    """Return the container with env server, task worker and, for qemu, the virtual machine. It holds the secrets."""
    drain = ["python", "-m", "osworld_envpod.drain", "--deadline-s", str(GRACE_S - STOP_S)]
    return {
        "name": CONTAINER_SERVER,
        **image(settings, settings.env_image),
        "args": ["python", "-m", "osworld_envpod"],
        "ports": [{"name": "http", "containerPort": ENV_SERVER_PORT}],
        "env": server_variables(env, settings),
        "resources": server_resources(env.spec),
        "securityContext": container_security(),
        "volumeMounts": server_mounts(env.spec),
        # The process answers within a minute; the desktop behind it may take as long as a fetch of its image.
        "startupProbe": http_probe("/livez", ENV_SERVER_PORT, period_s=1, failures=60),
        "readinessProbe": http_probe("/readyz", ENV_SERVER_PORT, period_s=2, failures=2),
        "livenessProbe": http_probe("/livez", ENV_SERVER_PORT, period_s=10, failures=6, timeout_s=5),
        "lifecycle": {"preStop": {"exec": {"command": drain}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _desktop(spec: OSWorldEnvSpec, settings: ChildSettings) -> dict[str, Any]:
    """Return the container in which the agent acts: hostile, so without a secret, a token or a word of the task."""
    return {
        "name": CONTAINER_DESKTOP,
        **image(settings, settings.desktop_image),
        "resources": desktop_resources(spec),
        "securityContext": container_security(DESKTOP_UID),
        "volumeMounts": desktop_mounts(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _scheduling(env: OSWorldEnv) -> dict[str, Any]:
    scheduling = env.spec.scheduling
    found: dict[str, Any] = {}
    if scheduling.node_selector:
        found["nodeSelector"] = dict(scheduling.node_selector)
    if scheduling.tolerations:
        found["tolerations"] = [_toleration(given) for given in scheduling.tolerations]
    if scheduling.affinity:
        found["affinity"] = scheduling.affinity
    if scheduling.topology_spread:
        found["topologySpreadConstraints"] = [_spread(env.metadata.name, given) for given in scheduling.topology_spread]
    if scheduling.priority_class_name:
        found["priorityClassName"] = scheduling.priority_class_name
    return found


def _away_from(nodes: Sequence[str], given: dict[str, Any]) -> dict[str, Any]:
    """Return the affinity `given` with a preference for other nodes than `nodes`."""
    # A field takes one name, so there is one requirement for each.
    fields = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in nodes]
    wish = {"weight": 100, "preference": {"matchFields": fields}}
    on_nodes = given.get("nodeAffinity", {})
    key = "preferredDuringSchedulingIgnoredDuringExecution"
    return {**given, "nodeAffinity": {**on_nodes, key: [*on_nodes.get(key, ()), wish]}}


def _toleration(given: Toleration) -> dict[str, Any]:
    return given.model_dump(by_alias=True, exclude_none=True, mode="json")


def _spread(pool: str, given: TopologySpread) -> dict[str, Any]:
    return {
        **given.model_dump(by_alias=True, mode="json"),
        "labelSelector": {"matchLabels": selector(pool, COMPONENT_ENV)},
    }
