"""What all models of the API share: camelCase, nothing unknown, and rules that hold across fields.

The models are the one source: the schema of the CustomResourceDefinition is made from them, descriptions included.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel


@dataclass(frozen=True)
class Rule:
    """What must hold across the fields of one object, for the API server (CEL) and for Python."""

    field: str
    """The field to blame, from the object with the rule on, such as ``.resetTimeout``."""
    cel: str
    message: str
    """Said to whoever applied the object. Names what is accepted."""
    holds: Callable[[Any], bool] | None = None
    """The same on the model. None: only a change can break it, and Python sees one object at a time."""


class CrdModel(BaseModel):
    """One object of the API."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for rule in self.rules:
            if rule.holds is not None and not rule.holds(self):
                raise ValueError(f"{rule.field}: {rule.message}")
        return self
