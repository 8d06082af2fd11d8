"""``osworld-env pool``: pools of a Kubernetes cluster, over its API. Needs the extra ``kubectl``."""
