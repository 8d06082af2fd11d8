"""Names in Kubernetes that more than one part uses: the resource, labels, keys of Secrets, names of a pool's children.

A pool is named by its OSWorldEnv; every child is in that one's namespace and has an ownerReference to it.
"""

from typing import Final

API_GROUP: Final = "osworld.dev"
API_VERSION: Final = "v1alpha1"
KIND: Final = "OSWorldEnv"
PLURAL: Final = "osworldenvs"
SINGULAR: Final = "osworldenv"
SHORT_NAME: Final = "owe"
CRD_NAME: Final = f"{PLURAL}.{API_GROUP}"

LABEL_POOL: Final = f"{API_GROUP}/pool"
"""On every child: the name of its OSWorldEnv."""

LABEL_SLOT: Final = f"{API_GROUP}/slot"
"""On an env pod: the number in its name, which never changes. It is not an env_idx."""

LABEL_ENV_IDX: Final = f"{API_GROUP}/env-idx"
"""On an env pod that serves an env_idx: that number. A pod without it is a spare, or drained."""

LABEL_ENV_EPOCH: Final = f"{API_GROUP}/env-epoch"
"""Changes together with the label of env_idx, and grows with every move of that env_idx."""

LABEL_RETIRED: Final = f"{API_GROUP}/retired"
"""On an env pod whose env_idx was moved away on a router's request: whatever it still does is nobody's, and it goes."""

LABEL_REVISION: Final = f"{API_GROUP}/revision"
"""On an env pod: a hash of what its spec was made from. Another one than the pool's means outdated."""

ANNOTATION_DRAIN: Final = f"{API_GROUP}/drain"
"""On an env pod, with any value: it goes after its episode, and its env_idx moves to another one. Anybody may set it,
and the operator only reads it."""

ANNOTATION_POOL_UID: Final = f"{API_GROUP}/pool-uid"
"""On a router's pod: the uid of its OSWorldEnv. One that is applied again under its name has other tokens."""

ANNOTATION_OPERATOR_URL: Final = f"{API_GROUP}/operator-url"
"""On the operators' lease: where its holder is reached, for what routers ask of one that stands by."""

LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
"""Source: Kubernetes, "Recommended Labels"."""

APP_NAME: Final = "osworld-env"
"""Value of `LABEL_NAME` on everything of ours, and the field manager of what the operator applies."""

COMPONENT_ENV: Final = "env"
COMPONENT_ROUTER: Final = "router"
COMPONENT_OPERATOR: Final = "operator"
"""Values of `LABEL_COMPONENT`."""

CONTAINER_SERVER: Final = "server"
CONTAINER_DESKTOP: Final = "desktop"
"""Containers of an env pod: env server and task worker; an xvfb desktop, which holds no secret."""

CONTAINER_ROUTER: Final = "router"

SECRET_KEY_TOKEN: Final = "token"  # noqa: S105 - the name of a key
"""In a pool's Secret: what clients show to the router."""

SECRET_KEY_UPSTREAM_TOKEN: Final = "upstream-token"  # noqa: S105 - the name of a key
"""In a pool's Secret: what the router shows to env servers."""

OPERATOR_AUDIENCE: Final = f"{API_GROUP}/operator"
"""Audience of the tokens that routers show to the operator: they are of no use anywhere else."""

DEFAULT_KVM_RESOURCE: Final = f"{API_GROUP}/kvm"
"""What the node plugin advertises."""

POOL_NAME_MAX_CHARS: Final = 40
"""Leaves room for the longest suffix of a child in a label's value (63)."""


def env_pod_name(pool: str, slot: int) -> str:
    """Return the name of the env pod in `slot`."""
    return f"{pool}-{slot}"


def router_name(pool: str) -> str:
    """Return the name of the router's Deployment, Service, ServiceAccount, Role, RoleBinding, NetworkPolicy and PDB."""
    return f"{pool}-router"


def pool_path(namespace: str, pool: str) -> str:
    """Return the path at the operator below which a pool's routers ask for moves."""
    return f"/pools/{namespace}/{pool}"


def service_account_user(namespace: str, name: str) -> str:
    """Return the user name of a service account. Source: Kubernetes, "Authenticating", "Service account tokens"."""
    return f"system:serviceaccount:{namespace}:{name}"


def env_policy_name(pool: str) -> str:
    """Return the name of the env pods' NetworkPolicy."""
    return f"{pool}-env"


def tokens_secret_name(pool: str) -> str:
    """Return the name of the Secret with a pool's tokens."""
    return f"{pool}-tokens"
