"""The end of an episode in a header: whole on the way, bounded, and nothing but itself."""

import base64
import json
from typing import Any

import pytest

from osworld_contract.faults import FaultReason, fault_error
from osworld_contract.record import END_CHARS, END_MESSAGE_CHARS, RecordEnd

FAULT = fault_error(FaultReason.ENV_DOWN, "gone\r\nX-Forged: 1 \N{SKULL}", operation="step", recovery="no_spare").fault
END = RecordEnd(episode_id="0a" * 16, operation="step", at=1e9, duration_s=2.5, fault=FAULT)


def encoded(**changes: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(json.loads(END.model_dump_json()) | changes).encode()).decode()


def test_it_comes_out_as_it_went_in() -> None:
    assert RecordEnd.parse(END.header) == END
    assert END.header.isascii() and not set(END.header) & set("\r\n\0 ,:;")
    assert END.line.fault == FAULT


@pytest.mark.parametrize("char", ["x", "\N{SKULL}", "\1", '"'])
def test_it_is_bounded(char: str) -> None:
    fault = fault_error(FaultReason.ENV_DOWN, char * 4000, operation="step", log=char * 9000).fault
    header = END.model_copy(update={"fault": fault}).header
    assert len(header) <= END_CHARS
    seen = RecordEnd.parse(header)
    assert seen is not None
    assert (seen.fault.message, seen.fault.evidence) == (char * END_MESSAGE_CHARS, {})


@pytest.mark.parametrize(
    "value",
    [
        "", "!", "\xe9", "bm8=", END.header[:-4], END.header + "AAAA", END.header + "\n", "A" * (END_CHARS + 4),
        base64.urlsafe_b64encode(b"[" * 6000).decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        *(encoded(episode_id=name) for name in ("", "..", "../" + "0a" * 16, "0A" * 16, "0a" * 16 + "\n", "0a" * 17)),
        encoded(operation="reset"), encoded(at=float("nan")), encoded(duration_s=-1), encoded(score=1.0),
        encoded(fault=None), encoded(fault={"kind": "infra"}),
    ],
)  # fmt: skip
def test_anything_else_is_nothing(value: str) -> None:
    assert RecordEnd.parse(value) is None
