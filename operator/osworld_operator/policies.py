"""NetworkPolicies of a pool: who reaches its pods, and what they reach. Pure."""

from typing import Any, Final

from osworld_contract.crd import OSWorldEnv
from osworld_contract.kube_names import COMPONENT_ENV, COMPONENT_ROUTER, env_policy_name, router_name
from osworld_contract.names import ENV_SERVER_PORT, ROUTER_PORT
from osworld_operator.child_settings import ChildSettings
from osworld_operator.owner import metadata, selector

PRIVATE_IPV4: Final = ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
                       "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4")  # fmt: skip
PRIVATE_IPV6: Final = ("::1/128", "fc00::/7", "fe80::/10", "ff00::/8")
"""Where clusters, their nodes and a cloud's metadata service are. Source: IANA's special-purpose address registries."""

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
DNS_NAMESPACE: Final = "kube-system"
DNS_PORT: Final = 53


def env_policy(env: OSWorldEnv, settings: ChildSettings) -> dict[str, Any]:
    """Return the policy of env pods: router and operator come in; the cluster is out of reach."""
    pool = env.metadata.name
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(env, env_policy_name(pool), COMPONENT_ENV),
        "spec": {
            "podSelector": {"matchLabels": selector(pool, COMPONENT_ENV)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": _callers(pool, settings), "ports": [_tcp(ENV_SERVER_PORT)]}],
            "egress": _egress(env, settings),
        },
    }


def router_policy(env: OSWorldEnv) -> dict[str, Any]:
    """Return the policy of the router: one port, for whoever has the token."""
    pool = env.metadata.name
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(env, router_name(pool)),
        "spec": {
            "podSelector": {"matchLabels": selector(pool, COMPONENT_ROUTER)},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [_tcp(ROUTER_PORT)]}],
        },
    }


def needs_outside(env: OSWorldEnv) -> bool:
    """Return whether env pods fetch anything: the image, files of tasks without a mirror, what an evaluator asks."""
    spec = env.spec
    fetches_image = spec.desktop.image is not None and not spec.desktop.image.url.startswith(("file:", "/"))
    return fetches_image or spec.tasks.mirror is None or spec.tasks.secret_ref is not None


def _callers(pool: str, settings: ChildSettings) -> list[dict[str, Any]]:
    found = [
        {"podSelector": {"matchLabels": selector(pool, COMPONENT_ROUTER)}},
        {
            "namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: settings.operator_namespace}},
            "podSelector": {"matchLabels": settings.operator_labels},
        },
    ]
    if settings.monitoring_namespace:
        found.append({"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: settings.monitoring_namespace}}})
    return found


def _egress(env: OSWorldEnv, settings: ChildSettings) -> list[dict[str, Any]]:
    chosen: list[dict[str, Any]] = []
    if settings.egress_cidrs:
        chosen.append({"to": [{"ipBlock": {"cidr": cidr}} for cidr in settings.egress_cidrs]})
    if needs_outside(env):
        outside = [
            {"ipBlock": {"cidr": "0.0.0.0/0", "except": list(PRIVATE_IPV4)}},
            {"ipBlock": {"cidr": "::/0", "except": list(PRIVATE_IPV6)}},
        ]
        chosen.append({"to": outside})
    if chosen:
        chosen.append(
            {
                "to": [{"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: DNS_NAMESPACE}}}],
                "ports": [{"protocol": "UDP", "port": DNS_PORT}, _tcp(DNS_PORT)],
            }
        )
    return chosen


def _tcp(port: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": port}
