"""``spec.router`` and ``spec.update``."""

from enum import StrEnum
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, StringConstraints

from osworld_contract.crd.base import CrdModel, Rule
from osworld_contract.crd.desktop import ResourceName, SecretKey
from osworld_contract.crd.episode import ROUTER_RESET_TOTAL
from osworld_contract.crd.values import Duration, IntOrPercent
from osworld_contract.kube_names import SECRET_KEY_TOKEN

HEDGE_AFTER_MIN: Final = Duration("1s")


class UpdateStrategy(StrEnum):
    """How pods of an older spec are replaced."""

    WHEN_IDLE = "WhenIdle"
    RECREATE = "Recreate"


class RouterService(CrdModel):
    """The Service in front of the router."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """How it is reached from outside the cluster, if at all."""
    annotations: Annotated[dict[str, Annotated[str, StringConstraints(max_length=4096)]], Field(max_length=20)] = Field(
        default_factory=dict
    )
    """Annotations, which load balancers read."""


class TokenSecretRef(CrdModel):
    """The Secret with the token that clients show."""

    name: ResourceName
    """Name of a Secret in the pool's namespace."""
    key: SecretKey = SECRET_KEY_TOKEN
    """Key in it."""


class RouterAuth(CrdModel):
    """Who is let in."""

    secret_ref: TokenSecretRef | None = None
    """A token of your own. Without it the operator makes one and keeps it in the Secret NAME-tokens."""


class Router(CrdModel):
    """The one URL in front of the pool."""

    replicas: Annotated[int, Field(ge=1, le=20)] = 2
    """Router pods. All serve; one may be lost."""
    service: RouterService = Field(default_factory=RouterService)
    """The Service, on port 15001."""
    auth: RouterAuth = Field(default_factory=RouterAuth)
    """The token."""
    hedge_after: Duration = Duration("30s")
    """A reset that takes longer is tried on a spare too, and the first to succeed is taken."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            ".hedgeAfter",
            f"duration(self.hedgeAfter) >= duration('{HEDGE_AFTER_MIN}') && "
            f"duration(self.hedgeAfter) < duration('{ROUTER_RESET_TOTAL}')",
            f"hedgeAfter must be at least {HEDGE_AFTER_MIN} and less than {ROUTER_RESET_TOTAL}",
            lambda router: HEDGE_AFTER_MIN.seconds <= router.hedge_after.seconds < ROUTER_RESET_TOTAL.seconds,
        ),
    )


class Update(CrdModel):
    """How a changed spec reaches the pods."""

    strategy: UpdateStrategy = UpdateStrategy.WHEN_IDLE
    """WhenIdle: each pod after its episode. Recreate: all at once, in the middle of episodes."""
    max_unavailable: IntOrPercent = IntOrPercent("10%")
    """How many are replaced at a time: a number, or a share of replicas, rounded up."""
