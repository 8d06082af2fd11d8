"""The resource as a whole: ``spec``, and what the API server adds around it."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from osworld_contract.crd.base import CrdModel, Rule
from osworld_contract.crd.desktop import Accelerator, Desktop
from osworld_contract.crd.episode import Episode, Snapshots, Tasks
from osworld_contract.crd.placement import Cache, PodTemplate, Scheduling
from osworld_contract.crd.router import Router, Update
from osworld_contract.crd.status import ConditionType, OSWorldEnvStatus
from osworld_contract.kube_names import POOL_NAME_MAX_CHARS

REPLICAS_MAX = 5000
SPARES_MAX = 200


class OSWorldEnvSpec(CrdModel):
    """A pool of desktops behind one URL."""

    replicas: Annotated[int, Field(ge=0, le=REPLICAS_MAX)] = 1
    """How many envs the trainer sees: env_idx 0 to replicas-1."""
    spares: Annotated[int, Field(ge=0, le=SPARES_MAX)] = 1
    """Ready pods beside them, which take the place of a lost one at once."""
    desktop: Desktop
    """What each env is."""
    episode: Episode = Field(default_factory=Episode)
    """How episodes run."""
    snapshots: Snapshots = Field(default_factory=Snapshots)
    """Frozen virtual machines to fork."""
    cache: Cache = Field(default_factory=Cache)
    """Where images, templates and downloads are kept."""
    scheduling: Scheduling = Field(default_factory=Scheduling)
    """Where env pods run."""
    tasks: Tasks = Field(default_factory=Tasks)
    """What tasks' setups and evaluators need."""
    router: Router = Field(default_factory=Router)
    """The one URL in front of the pool."""
    update: Update = Field(default_factory=Update)
    """How a changed spec reaches the pods."""
    pod_template: PodTemplate = Field(default_factory=PodTemplate)
    """What is added to env pods."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            ".scheduling.kvmResource",
            "self.desktop.accelerator != 'kvm' || self.scheduling.kvmResource != ''",
            "accelerator kvm needs a device: set scheduling.kvmResource",
            lambda spec: spec.desktop.accelerator is not Accelerator.KVM or spec.scheduling.kvm_resource != "",
        ),
    )


class ObjectMeta(BaseModel):
    """What is read of an object's metadata; the rest is the API server's."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=POOL_NAME_MAX_CHARS)]
    """Its children are named after it, a Service among them."""
    namespace: str = "default"
    uid: str = ""
    generation: int = 0


class OSWorldEnv(BaseModel):
    """An OSWorldEnv as the API server sends it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    metadata: ObjectMeta
    spec: OSWorldEnvSpec
    status: OSWorldEnvStatus = Field(default_factory=OSWorldEnvStatus)

    @property
    def is_ready(self) -> bool:
        """Whether the operator says of the present spec that every env_idx has a ready pod."""
        return any(
            item.type == ConditionType.READY
            and item.status == "True"
            and item.observed_generation >= self.metadata.generation
            for item in self.status.conditions
        )
