"""From pods to the registry."""

from types import SimpleNamespace as Object
from typing import Any

import pytest

from osworld_contract.registry import RegistryEntry
from osworld_router.pods import PodRegistry, entry_of, latest


def pod(
    idx: str | None = "3", epoch: str | None = "7", address: str | None = "10.1.2.3", phase: str = "Running"
) -> Any:
    labels = {"osworld.dev/env-idx": idx, "osworld.dev/env-epoch": epoch}
    head = Object(name="desks-0", uid="u0", labels={name: value for name, value in labels.items() if value is not None})
    return Object(metadata=head, status=Object(pod_ip=address, phase=phase))


def test_a_pod_with_a_number_is_an_entry() -> None:
    assert entry_of(pod()) == RegistryEntry(env_idx=3, uid="u0", epoch=7, url="http://10.1.2.3:18082")


def test_an_ipv6_address_is_put_in_brackets() -> None:
    entry = entry_of(pod(address="fd00::3"))
    assert entry is not None and entry.url == "http://[fd00::3]:18082"


@pytest.mark.parametrize(
    "given", [pod(idx=None), pod(epoch=None), pod(address=None), pod(phase="Failed"), pod(idx="-1"), pod(idx="x")]
)
def test_a_pod_that_serves_no_number_is_none(given: Any) -> None:
    assert entry_of(given) is None


def test_of_two_pods_with_one_number_the_later_epoch_counts() -> None:
    older = RegistryEntry(env_idx=0, uid="a", epoch=1, url="http://10.0.0.1:18082")
    newer = RegistryEntry(env_idx=0, uid="b", epoch=2, url="http://10.0.0.2:18082")
    assert latest([newer, older]) == {0: newer}


def entry(uid: str, epoch: int) -> RegistryEntry:
    return RegistryEntry(env_idx=0, uid=uid, epoch=epoch, url="http://10.0.0.1:18082")


async def test_what_the_operator_says_counts_before_the_watch_shows_it() -> None:
    registry = PodRegistry("train", "desks")
    registry.take_over("desks-0", entry("a", 1))
    await registry.learn(entry("b", 2))
    assert registry.snapshot.envs == {0: entry("b", 2)}
    registry.take_over("desks-0", None)
    assert registry.snapshot.envs == {0: entry("b", 2)}
    registry.take_over("desks-1", entry("b", 2))
    registry.take_over("desks-1", None)
    assert registry.snapshot.envs == {}, "from then on the watch alone counts"


async def test_an_answer_that_is_older_than_what_is_known_changes_nothing() -> None:
    registry = PodRegistry("train", "desks")
    registry.take_over("desks-2", entry("c", 3))
    await registry.learn(entry("b", 2))
    assert registry.snapshot.envs == {0: entry("c", 3)}
