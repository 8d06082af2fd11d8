"""What every pool's children have in common, as the operator was told by its chart."""

from dataclasses import dataclass

from osworld_contract.kube_names import APP_NAME


@dataclass(frozen=True)
class ChildSettings:
    """Images and the cluster's ways."""

    env_image: str
    """Of the env server. Chart value ``images.env``."""
    desktop_image: str
    """Of an xvfb desktop's container. Chart value ``images.desktop``."""
    router_image: str
    """Of the router. Chart value ``images.router``."""
    operator_namespace: str
    """Where the operator runs: its pods may drain env servers, and move an env_idx on a router's request."""
    operator_url: str = ""
    """Where routers ask for moves of an env_idx; empty: they do not. The chart's Service."""
    pull_policy: str = "IfNotPresent"
    """Chart value ``images.pullPolicy``."""
    pull_secrets: tuple[str, ...] = ()
    """Secrets of the pools' namespaces. Chart value ``images.pullSecrets``."""
    monitoring_namespace: str = ""
    """Where Prometheus runs, which may then scrape env pods. Empty: nobody but router and operator reaches them. Chart
    value ``monitoring.namespace``."""
    egress_cidrs: tuple[str, ...] = ()
    """Private networks that env pods may reach, such as that of a mirror. Chart value ``pools.egressCidrs``."""
    log_level: str = "INFO"
    """Of env servers and routers. Chart value ``logLevel``."""

    @property
    def operator_labels(self) -> dict[str, str]:
        """Return the labels of the operator's pods."""
        return {"app.kubernetes.io/name": APP_NAME, "app.kubernetes.io/component": "operator"}
