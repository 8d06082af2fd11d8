"""Settings of the operator: one frozen object, read from the environment. The chart sets them."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from osworld_contract.kube_names import APP_NAME
from osworld_contract.settings import ENV_PREFIX, SettingsError, describe
from osworld_operator.child_settings import ChildSettings

DEFAULT_PORT: Final = 15002


class OperatorSettings(BaseSettings):
    """What an operator can be told. The variable of each field is ``OSWORLD_`` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    env_image: Annotated[str, Field(min_length=1)]
    """Image of the env server. Chart value ``images.env``."""
    desktop_image: Annotated[str, Field(min_length=1)]
    """Image of an xvfb desktop's container. Chart value ``images.desktop``."""
    router_image: Annotated[str, Field(min_length=1)]
    """Image of the router. Chart value ``images.router``."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Of all three. Chart value ``images.pullPolicy``."""
    pull_secrets: str = ""
    """Names of Secrets in the pools' namespaces, separated by commas. Chart value ``images.pullSecrets``."""
    operator_namespace: Annotated[str, Field(min_length=1)]
    """Where this operator runs. The chart takes it from the pod."""
    operator_lease: Annotated[str, Field(min_length=1)] = f"{APP_NAME}-operator"
    """Name of the lease there by which one operator is the one writer. The chart names it after the release."""
    operator_name: str = ""
    """Who holds the lease: this pod; empty: this host. The chart takes it from the pod."""
    operator_address: str = ""
    """Where other operators reach this one while it leads, to pass on what routers ask; empty: they do not. The chart
    takes it from the pod."""
    watch_namespaces: str = ""
    """Namespaces with pools, separated by commas; empty: all. Chart value ``operator.watchNamespaces``."""
    monitoring_namespace: str = ""
    """Where Prometheus runs, which may then scrape env pods. Chart value ``monitoring.namespace``."""
    egress_cidrs: str = ""
    """Private networks that env pods may reach, separated by commas. Chart value ``pools.egressCidrs``."""
    operator_url: str = ""
    """Where routers reach this operator, to ask for moves; empty: they do not. The chart's Service."""
    operator_host: str = "0.0.0.0"  # noqa: S104 - the pod's own address: probes and Prometheus come from outside
    """Address of health, metrics and moves."""
    operator_port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    """Port of the same; 0 takes a free one, which the log names."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Of the operator, env servers and routers. Chart value ``logLevel``."""

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Return the namespaces with pools; none means all."""
        return _words(self.watch_namespaces)

    @property
    def children(self) -> ChildSettings:
        """Return what all pools' children have in common."""
        return ChildSettings(
            env_image=self.env_image,
            desktop_image=self.desktop_image,
            router_image=self.router_image,
            operator_namespace=self.operator_namespace,
            operator_url=self.operator_url.rstrip("/"),
            pull_policy=self.pull_policy,
            pull_secrets=_words(self.pull_secrets),
            monitoring_namespace=self.monitoring_namespace,
            egress_cidrs=_words(self.egress_cidrs),
            log_level=self.log_level,
        )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def load_settings(overrides: Mapping[str, str] | None = None) -> OperatorSettings:
    """Return the settings.

    Raises:
        SettingsError: A value is missing or wrong.
    """
    try:
        return OperatorSettings(**(overrides or {}))  # type: ignore[arg-type]  # parsed by the model
    except ValidationError as error:
        raise SettingsError(describe(error, {})) from error
