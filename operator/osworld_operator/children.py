"""From an OSWorldEnv to the manifests of all that belongs to it. Pure: nothing here asks or changes a cluster.

``env_pod``          one env pod, by slot; the operator creates and deletes them one by one
``applied_children`` what is applied as it is at every reconcile: the router with all around it, NetworkPolicies
``tokens_secret``    what is created once and never changed
"""

from typing import Any

from osworld_contract.crd import OSWorldEnv
from osworld_contract.kube_names import SECRET_KEY_TOKEN, SECRET_KEY_UPSTREAM_TOKEN, tokens_secret_name
from osworld_operator.child_settings import ChildSettings
from osworld_operator.owner import env_selector_text, metadata
from osworld_operator.pod import env_pod, pod_revision, pod_spec
from osworld_operator.policies import env_policy, router_policy
from osworld_operator.router_children import deployment, disruption_budget, rights, service, service_url

__all__ = [
    "ChildSettings",
    "applied_children",
    "env_pod",
    "env_selector_text",
    "pod_revision",
    "pod_spec",
    "service_url",
    "tokens_secret",
]


def applied_children(env: OSWorldEnv, settings: ChildSettings) -> list[dict[str, Any]]:
    """Return everything but env pods and tokens, in an order in which it can be applied."""
    return [
        *rights(env),
        env_policy(env, settings),
        router_policy(env),
        service(env),
        disruption_budget(env),
        deployment(env, settings),
    ]


def tokens_secret(env: OSWorldEnv, token: str, upstream_token: str) -> dict[str, Any]:
    """Return the Secret with the tokens, which the caller has just made. Created once: AlreadyExists is success."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": metadata(env, tokens_secret_name(env.metadata.name)),
        "stringData": {SECRET_KEY_TOKEN: token, SECRET_KEY_UPSTREAM_TOKEN: upstream_token},
    }
