"""From an OSWorldEnv to its router: Deployment, Service, rights, PodDisruptionBudget. Pure."""

from pathlib import PurePosixPath
from typing import Any, Final

from osworld_contract.crd import OSWorldEnv
from osworld_contract.kube_names import (
    ANNOTATION_POOL_UID,
    API_GROUP,
    COMPONENT_ROUTER,
    CONTAINER_ROUTER,
    OPERATOR_AUDIENCE,
    PLURAL,
    SECRET_KEY_TOKEN,
    SECRET_KEY_UPSTREAM_TOKEN,
    pool_path,
    router_name,
    tokens_secret_name,
)
from osworld_contract.names import ENV_TOKEN, ENV_UPSTREAM_TOKEN, ROUTER_PORT
from osworld_operator.child_settings import ChildSettings
from osworld_operator.owner import labels, metadata, selector
from osworld_operator.pod_parts import (
    SERVER_UID,
    container_security,
    http_probe,
    image,
    pod_security,
    pull_secrets,
    secret_variable,
    variables,
)

GRACE_S: Final = 330
STOP_S: Final = 300
"""How long running calls may go on at a router that is stopped: longer than a step or an evaluate may take (270 s)."""

TOKEN_VOLUME: Final = "operator-token"  # noqa: S105 - a name
TOKEN_FILE: Final = PurePosixPath("/var/run/secrets/osworld.dev/operator/token")
TOKEN_S: Final = 3600
"""How long a token for the operator lasts. Source: the API server's default for bound tokens."""

SINGLE_TOLERATIONS: Final = [
    {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
    for taint in ("not-ready", "unreachable")
]
"""Of a router that is alone: it is replaced soon after the loss of its node, not after Kubernetes' five minutes."""

RESOURCES: Final = {"requests": {"cpu": "100m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}}
"""Of a router. A guess with room: it streams bodies and keeps none."""


def deployment(env: OSWorldEnv, settings: ChildSettings) -> dict[str, Any]:
    """Return the router's Deployment."""
    pool = env.metadata.name
    chosen = selector(pool, COMPONENT_ROUTER)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(env, router_name(pool)),
        "spec": {
            "replicas": env.spec.router.replicas,
            "selector": {"matchLabels": chosen},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {
                    "labels": labels(pool, COMPONENT_ROUTER),
                    "annotations": {ANNOTATION_POOL_UID: env.metadata.uid},
                },
                "spec": _pod_spec(env, settings, chosen),
            },
        },
    }


def _pod_spec(env: OSWorldEnv, settings: ChildSettings, chosen: dict[str, str]) -> dict[str, Any]:
    return {
        "serviceAccountName": router_name(env.metadata.name),
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": pod_security(SERVER_UID),
        **pull_secrets(settings),
        "topologySpreadConstraints": [_spread(chosen)],
        **({"tolerations": SINGLE_TOLERATIONS} if env.spec.router.replicas == 1 else {}),
        "containers": [_container(env, settings)],
        "volumes": [_token_volume()],
    }


def _spread(chosen: dict[str, str]) -> dict[str, Any]:
    """Return the constraint that keeps routers on nodes of their own, of those open to them. One node has all."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        # A control plane's node or one of GPUs is closed to them, and does not count.
        "nodeTaintsPolicy": "Honor",
        "labelSelector": {"matchLabels": chosen},
        # An update's new pods are spread among themselves.
        "matchLabelKeys": ["pod-template-hash"],
    }


def _token_volume() -> dict[str, Any]:
    """Return the volume with the token for the operator, which the kubelet renews long before it ends."""
    token = {"audience": OPERATOR_AUDIENCE, "expirationSeconds": TOKEN_S, "path": TOKEN_FILE.name}
    return {"name": TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}}


def _container(env: OSWorldEnv, settings: ChildSettings) -> dict[str, Any]:
    return {
        "name": CONTAINER_ROUTER,
        **image(settings, settings.router_image),
        "args": ["python", "-m", "osworld_router"],
        "ports": [{"name": "http", "containerPort": ROUTER_PORT}],
        "env": router_variables(env, settings),
        "resources": RESOURCES,
        "volumeMounts": [{"name": TOKEN_VOLUME, "mountPath": str(TOKEN_FILE.parent), "readOnly": True}],
        "securityContext": container_security(),
        "readinessProbe": http_probe("/readyz", ROUTER_PORT, period_s=2, failures=2),
        "livenessProbe": http_probe("/livez", ROUTER_PORT, period_s=10, failures=6, timeout_s=5),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def router_variables(env: OSWorldEnv, settings: ChildSettings) -> list[dict[str, Any]]:
    """Return the router's settings as variables. A test holds every name against the router's own."""
    pool = env.metadata.name
    plain = {
        "OSWORLD_ROUTER_HOST": "0.0.0.0",  # noqa: S104 - the pod's own address, guarded by the token
        "OSWORLD_ROUTER_PORT": str(ROUTER_PORT),
        "OSWORLD_ROUTER_STOP_TIMEOUT_S": str(STOP_S),
        "OSWORLD_ROUTER_POOL": pool,
        "OSWORLD_ROUTER_NAMESPACE": env.metadata.namespace,
        "OSWORLD_ROUTER_HEDGE_AFTER_S": f"{env.spec.router.hedge_after.seconds:g}",
        **_mover(env, settings),
        "OSWORLD_LOG_LEVEL": settings.log_level,
    }
    own = env.spec.router.auth.secret_ref
    tokens = tokens_secret_name(pool)
    return [
        *variables(plain),
        secret_variable(ENV_TOKEN, own.name, own.key) if own else secret_variable(ENV_TOKEN, tokens, SECRET_KEY_TOKEN),
        secret_variable(ENV_UPSTREAM_TOKEN, tokens, SECRET_KEY_UPSTREAM_TOKEN),
    ]


def _mover(env: OSWorldEnv, settings: ChildSettings) -> dict[str, str]:
    """Return whom the router asks for moves, and with what."""
    if not settings.operator_url:
        return {}
    return {
        "OSWORLD_ROUTER_MOVE_URL": settings.operator_url + pool_path(env.metadata.namespace, env.metadata.name),
        "OSWORLD_ROUTER_MOVE_TOKEN_FILE": str(TOKEN_FILE),
    }


def service(env: OSWorldEnv) -> dict[str, Any]:
    """Return the router's Service."""
    pool = env.metadata.name
    head = metadata(env, router_name(pool))
    head["annotations"] = dict(env.spec.router.service.annotations)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": head,
        "spec": {
            "type": env.spec.router.service.type,
            "selector": selector(pool, COMPONENT_ROUTER),
            # A router gives no score of an episode that it knows nothing of: a client's calls go to one of them.
            "sessionAffinity": "ClientIP",
            "ports": [{"name": "http", "port": ROUTER_PORT, "targetPort": ROUTER_PORT, "protocol": "TCP"}],
        },
    }


def service_url(env: OSWorldEnv) -> str:
    """Return the router's URL inside the cluster."""
    return f"http://{router_name(env.metadata.name)}.{env.metadata.namespace}.svc:{ROUTER_PORT}"


def disruption_budget(env: OSWorldEnv) -> dict[str, Any]:
    """Return the PodDisruptionBudget: one router may be away at a time, so the drain of a node always goes on."""
    pool = env.metadata.name
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(env, router_name(pool)),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(pool, COMPONENT_ROUTER)}},
    }


def rights(env: OSWorldEnv) -> list[dict[str, Any]]:
    """Return ServiceAccount, Role and RoleBinding: the router reads pods of its namespace and its pool."""
    pool = env.metadata.name
    name = router_name(pool)
    head = metadata(env, name)
    group = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": name, "namespace": env.metadata.namespace}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": head},
        {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": head,
            "rules": [
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
                {"apiGroups": [API_GROUP], "resources": [PLURAL], "resourceNames": [pool], "verbs": ["get"]},
            ],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": head,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [subject],
        },
    ]
