"""The API ``osworld.dev/v1alpha1``: models of an OSWorldEnv, from which the schema of its definition is made."""

from osworld_contract.crd.base import CrdModel, Rule
from osworld_contract.crd.desktop import Accelerator, Desktop, Image, Provider
from osworld_contract.crd.episode import Episode, FormatReward
from osworld_contract.crd.placement import Cache, PodTemplate, Scheduling
from osworld_contract.crd.router import Router, Update, UpdateStrategy
from osworld_contract.crd.spec import ObjectMeta, OSWorldEnv, OSWorldEnvSpec
from osworld_contract.crd.status import Condition, ConditionReason, ConditionType, OSWorldEnvStatus, TroubledEnv
from osworld_contract.crd.values import Duration, IntOrPercent, Quantity

__all__ = [
    "Accelerator",
    "Cache",
    "Condition",
    "ConditionReason",
    "ConditionType",
    "CrdModel",
    "Desktop",
    "Duration",
    "Episode",
    "FormatReward",
    "Image",
    "IntOrPercent",
    "OSWorldEnv",
    "OSWorldEnvSpec",
    "OSWorldEnvStatus",
    "ObjectMeta",
    "PodTemplate",
    "Provider",
    "Quantity",
    "Router",
    "Rule",
    "Scheduling",
    "TroubledEnv",
    "Update",
    "UpdateStrategy",
]
