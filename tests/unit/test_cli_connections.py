"""The client's connections: which proxy they go by, and which of them the kernel gave up."""

import errno

import httpx
import pytest

from osworld_contract.faults import FaultReason
from osworld_env.address import parse_address
from osworld_env.client_faults import Cause, fault_of_failure
from osworld_env.connections import is_lost, proxy_to

ROUTER = parse_address("http://router.train:15001")


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, None),
        ({"http_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        ({"http_proxy": "proxy:3128"}, "http://proxy:3128"),
        ({"all_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        ({"https_proxy": "http://proxy:3128"}, None),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "elsewhere,.train"}, None),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "router.train"}, None),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "*"}, None),
    ],
)
def test_the_environments_proxy_is_used(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], proxy: str | None
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_to(ROUTER) == proxy


def late(number: int | None) -> httpx.ReadTimeout:
    """Return a time-out as httpx has it of the kernel (with a number) and of its own clock (without)."""
    error = httpx.ReadTimeout("timed out")
    error.__cause__ = TimeoutError() if number is None else TimeoutError(number, "Connection timed out")
    return error


def test_a_connection_that_the_kernel_gave_up_is_no_late_reply() -> None:
    assert is_lost(late(errno.ETIMEDOUT))
    assert not is_lost(late(None))
    assert not is_lost(httpx.ReadError("reset"))


def test_its_fault_says_so() -> None:
    lost, slow = (fault_of_failure("step", ROUTER, late(number)) for number in (errno.ETIMEDOUT, None))
    assert (lost.reason, lost.evidence["cause"]) == (FaultReason.ENV_DOWN, Cause.DROPPED)
    assert (slow.reason, slow.evidence["cause"]) == (FaultReason.ENV_TIMEOUT, Cause.READ_TIMEOUT)
