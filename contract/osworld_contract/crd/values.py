"""Strings of the API that mean a number: durations, quantities, a count or a share. Each is checked when parsed."""

import math
import re
from decimal import Decimal
from typing import Any, Final, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

DURATION_PATTERN: Final = r"^([0-9]{1,9}(\.[0-9]{1,3})?(ms|s|m|h))+$"
DURATION_MAX_CHARS: Final = 24
_DURATION_PART: Final = re.compile(r"([0-9.]+)(ms|s|m|h)")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

QUANTITY_PATTERN: Final = r"^[0-9]{1,12}(\.[0-9]{1,6})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
QUANTITY_MAX_CHARS: Final = 24
_QUANTITY: Final = re.compile(r"([0-9.]+)([A-Za-z]*)")
_SUFFIX: Final = {
    "": Decimal(1), "m": Decimal("0.001"),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
}  # fmt: skip

PERCENT_PATTERN: Final = r"^(100|[1-9][0-9]?)%$"
MIB_BYTES: Final = 2**20


class _Text(str):
    """A string of a fixed form, in Python and in the schema of the API alike."""

    __slots__ = ()
    pattern: str
    max_chars: int
    form: str
    """The form in words, for messages."""

    def __new__(cls, text: str) -> Self:
        """Return `text`.

        Raises:
            ValueError: It does not have the form.
        """
        if len(text) > cls.max_chars or not re.fullmatch(cls.pattern, text):
            raise ValueError(f"{text[: cls.max_chars]!r} is not {cls.form}")
        return super().__new__(cls, text)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: type, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(strict=True))

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: core_schema.CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "pattern": cls.pattern, "maxLength": cls.max_chars}


class Duration(_Text):
    """A time span such as ``500ms``, ``360s`` or ``1h30m``. Go's form, without a sign."""

    __slots__ = ()
    pattern = DURATION_PATTERN
    max_chars = DURATION_MAX_CHARS
    form = "a duration such as 500ms, 360s or 1h30m"

    @property
    def seconds(self) -> float:
        """Return the span in seconds."""
        return sum(float(number) * _UNIT_S[unit] for number, unit in _DURATION_PART.findall(self))


class Quantity(_Text):
    """An amount such as ``4Gi`` or ``500m``, as Kubernetes writes it, without a sign or an exponent."""

    __slots__ = ()
    pattern = QUANTITY_PATTERN
    max_chars = QUANTITY_MAX_CHARS
    form = "a quantity such as 4Gi or 500m"

    @property
    def value(self) -> Decimal:
        """Return the amount: bytes of memory, processors."""
        found = _QUANTITY.fullmatch(self)
        assert found is not None
        return Decimal(found[1]) * _SUFFIX[found[2]]

    @property
    def mib(self) -> int:
        """Return an amount of bytes in whole MiB, rounded down."""
        return int(self.value // MIB_BYTES)


class IntOrPercent:
    """A count of at least 1, or a share of the pool such as ``10%``."""

    __slots__ = ("text",)

    def __init__(self, given: int | str) -> None:
        """Take `given`.

        Raises:
            ValueError: It is neither.
        """
        is_count = isinstance(given, int) and not isinstance(given, bool) and given >= 1
        if not (is_count or (isinstance(given, str) and re.fullmatch(PERCENT_PATTERN, given))):
            raise ValueError(f"{given!r} is neither a whole number of at least 1 nor a share such as 10%")
        self.text = given

    def of(self, total: int) -> int:
        """Return the count out of `total`: a share rounds up, and is at least 1, so that an update can go on."""
        if isinstance(self.text, int):
            return self.text
        return max(1, math.ceil(total * int(self.text.removesuffix("%")) / 100))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IntOrPercent) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"IntOrPercent({self.text!r})"

    @classmethod
    def _parse(cls, given: Any) -> Self:
        return given if isinstance(given, cls) else cls(given)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: type, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._parse, serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.text)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: core_schema.CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"x-kubernetes-int-or-string": True, "minimum": 1, "pattern": PERCENT_PATTERN, "maxLength": 4}
