"""``spec.cache``, ``spec.scheduling`` and ``spec.podTemplate``: where env pods run and what is added to them."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from osworld_contract.crd.base import CrdModel, Rule
from osworld_contract.crd.desktop import ResourceName, SecretKeyRef
from osworld_contract.crd.values import Quantity
from osworld_contract.kube_names import DEFAULT_KVM_RESOURCE

QualifiedName = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
        max_length=317,
    ),
]
LabelValue = Annotated[
    str, StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$", max_length=63)
]
AbsolutePath = Annotated[str, StringConstraints(pattern="^/.*$", max_length=1024)]
Opaque = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
"""An object of Kubernetes' own API, which is passed on as it is."""


class HostPathCache(CrdModel):
    """A folder of the node."""

    path: AbsolutePath
    """Its user 1001, the env server, must be able to write it. Make it beforehand: one that is missing is made, for
    root alone."""


class ClaimCache(CrdModel):
    """A PersistentVolumeClaim."""

    claim_name: ResourceName
    """Its name. More than one env on a node needs ReadWriteMany, or a volume of that node."""


class EmptyDirCache(CrdModel):
    """A folder that lives as long as the pod."""

    size_limit: Quantity | None = None
    """Past it the pod is evicted."""


class Cache(CrdModel):
    """Where images, templates, task snapshots, downloads and records of episodes are kept. One of three; an emptyDir
    where nothing is said."""

    host_path: HostPathCache | None = None
    """A folder of the node, shared by its envs. A namespace at the Pod Security level baseline or restricted refuses
    such pods: use a claim there."""
    persistent_volume_claim: ClaimCache | None = None
    """A claim of the namespace."""
    empty_dir: EmptyDirCache | None = None
    """A folder of the pod alone: every env fetches the image for itself, and has no task snapshots."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "",
            "[has(self.hostPath), has(self.persistentVolumeClaim), has(self.emptyDir)].filter(x, x).size() <= 1",
            "cache takes one of hostPath, persistentVolumeClaim and emptyDir",
            lambda cache: sum(map(bool, (cache.host_path, cache.persistent_volume_claim, cache.empty_dir))) <= 1,
        ),
    )


class Toleration(CrdModel):
    """As in Kubernetes."""

    key: QualifiedName | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = None


class TopologySpread(CrdModel):
    """Spread env pods evenly over the values of a node label."""

    topology_key: QualifiedName
    max_skew: Annotated[int, Field(ge=1, le=1000)] = 1
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = "ScheduleAnyway"


class Scheduling(CrdModel):
    """Where env pods run."""

    kvm_resource: Annotated[
        str,
        StringConstraints(
            pattern=r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$",
            max_length=317,
        ),
    ] = DEFAULT_KVM_RESOURCE
    """The device that a node plugin advertises for /dev/kvm, one for each env. Empty: none is asked for, and
    accelerator auto means emulation."""
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=20)] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=20)] = ()
    """Taints that are tolerated."""
    affinity: Opaque = Field(default_factory=dict)
    """Affinity as in a pod's spec."""
    topology_spread: Annotated[tuple[TopologySpread, ...], Field(max_length=8)] = ()
    """Spreading over nodes, zones or racks."""
    priority_class_name: ResourceName | None = None
    """Priority class of env pods."""


class ConfigMapKeyRef(CrdModel):
    """A key of a ConfigMap in the pool's namespace."""

    name: ResourceName
    key: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", min_length=1, max_length=253)]


class EnvVarSource(CrdModel):
    """Where a variable's value comes from."""

    secret_key_ref: SecretKeyRef | None = None
    config_map_key_ref: ConfigMapKeyRef | None = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "",
            "has(self.secretKeyRef) != has(self.configMapKeyRef)",
            "valueFrom takes one of secretKeyRef and configMapKeyRef",
            lambda source: (source.secret_key_ref is None) != (source.config_map_key_ref is None),
        ),
    )


class EnvVar(CrdModel):
    """A variable of the env server's container."""

    name: Annotated[str, StringConstraints(pattern="^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
    value: Annotated[str, StringConstraints(max_length=4096)] | None = None
    value_from: EnvVarSource | None = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "",
            "!(has(self.value) && has(self.valueFrom))",
            "a variable takes one of value and valueFrom",
            lambda variable: variable.value is None or variable.value_from is None,
        ),
    )


class Resources(CrdModel):
    """Requests and limits."""

    requests: Annotated[dict[str, Quantity], Field(max_length=10)] = Field(default_factory=dict)
    limits: Annotated[dict[str, Quantity], Field(max_length=10)] = Field(default_factory=dict)


class Volume(CrdModel):
    """A volume that is added to env pods and mounted in the env server's container."""

    name: Annotated[str, StringConstraints(pattern="^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", max_length=63)]
    mount_path: AbsolutePath
    read_only: bool = True
    source: Opaque
    """The volume as in a pod's spec, without its name: ``{configMap: {name: ...}}``."""


class PodTemplate(CrdModel):
    """What is added to env pods."""

    labels: Annotated[dict[str, LabelValue], Field(max_length=20)] = Field(default_factory=dict)
    """Labels beside the operator's own, which cannot be replaced."""
    annotations: Annotated[dict[str, Annotated[str, StringConstraints(max_length=4096)]], Field(max_length=20)] = Field(
        default_factory=dict
    )
    """Annotations."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=50)] = ()
    """Variables of the env server's container: any of its settings that has no field here."""
    resources: Resources = Field(default_factory=Resources)
    """Requests and limits of the env server's container, over those that the operator computes."""
    volumes: Annotated[tuple[Volume, ...], Field(max_length=10)] = ()
    """Volumes."""
