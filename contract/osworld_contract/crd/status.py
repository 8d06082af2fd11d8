"""``status``: what the operator found. Counts and a bounded sample, never a list of all envs."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from osworld_contract.crd.base import CrdModel

TROUBLED_MAX = 20
CONDITIONS_MAX = 8

Count = Annotated[int, Field(ge=0)]
Time = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
"""A time in RFC 3339, as Kubernetes writes it."""


class ConditionType(StrEnum):
    """What is said about a pool."""

    READY = "Ready"
    """Every env_idx has a ready pod."""
    PROGRESSING = "Progressing"
    """Pods are on their way: created, moved, updated or removed."""
    DEGRADED = "Degraded"
    """Something keeps the pool from what its spec asks for, and does not go away by waiting."""


class ConditionReason(StrEnum):
    """Why. The value is part of the public API."""

    ALL_READY = "AllReady"
    ENVS_NOT_READY = "EnvsNotReady"
    SCALED_TO_ZERO = "ScaledToZero"
    RECONCILED = "Reconciled"
    CREATING = "Creating"
    MOVING = "Moving"
    UPDATING = "Updating"
    SCALING_DOWN = "ScalingDown"
    AS_EXPECTED = "AsExpected"
    NO_KVM_DEVICE = "NoKVMDevice"
    INSUFFICIENT_CPU = "InsufficientCPU"
    INSUFFICIENT_MEMORY = "InsufficientMemory"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_NOT_FOUND = "ImageNotFound"
    POD_REFUSED = "PodRefused"
    PODS_FAILING = "PodsFailing"
    ENV_SERVERS_SILENT = "EnvServersSilent"
    NODES_LOST = "NodesLost"
    INVALID_SPEC = "InvalidSpec"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 - a reason


class Condition(CrdModel):
    """One condition. Source: Kubernetes, ``metav1.Condition``."""

    type: Annotated[str, StringConstraints(pattern="^[A-Z][A-Za-z]*$", max_length=64)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, StringConstraints(pattern="^[A-Z][A-Za-z]*$", max_length=64)]
    message: Annotated[str, StringConstraints(max_length=4096)] = ""
    last_transition_time: Time
    observed_generation: Count = 0


class TroubledEnv(CrdModel):
    """A pod that does not do its work."""

    pod: Annotated[str, StringConstraints(max_length=253)]
    env_idx: Count | None = None
    node: Annotated[str, StringConstraints(max_length=253)] | None = None
    reason: Annotated[str, StringConstraints(max_length=64)]
    message: Annotated[str, StringConstraints(max_length=1024)] = ""
    since: Time | None = None


class OSWorldEnvStatus(CrdModel):
    """What the operator found."""

    observed_generation: Count = 0
    """Generation of the spec that all else is about."""
    replicas: Count = 0
    """Env_idx that have a pod. What the scale subresource shows."""
    selector: Annotated[str, StringConstraints(max_length=512)] = ""
    """Label selector of env pods, for autoscalers."""
    desired: Count = 0
    """Env_idx that the spec asks for."""
    ready: Count = 0
    """Env_idx that have a ready pod."""
    busy: Count = 0
    """Env_idx in the middle of an episode."""
    spare: Count = 0
    """Ready pods without an env_idx."""
    faulted: Count = 0
    """Pods that are dead, stuck or cannot be scheduled."""
    updated: Count = 0
    """Pods of the latest spec."""
    url: Annotated[str, StringConstraints(max_length=512)] | None = None
    """The router's URL inside the cluster."""
    last_epoch: Count = 0
    """Largest epoch that an env_idx was given. Every move takes the next."""
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            max_length=CONDITIONS_MAX,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = ()
    """Ready, Progressing and Degraded."""
    troubled: Annotated[tuple[TroubledEnv, ...], Field(max_length=TROUBLED_MAX)] = ()
    """Some of the pods that do not do their work, those with an env_idx first."""
