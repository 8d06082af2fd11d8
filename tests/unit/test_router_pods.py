"""From pods to the registry."""

from types import SimpleNamespace as Object
from typing import Any

import pytest
from kubernetes import client

from osworld_contract.registry import RegistryEntry
from osworld_router.pods import PAGE_PODS, PodRegistry, entry_of, latest, lighten, listed_in_pages, router_of


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


def router_pod(is_ready: bool = True, address: str | None = "10.1.2.4", component: str = "router") -> client.V1Pod:
    head = client.V1ObjectMeta(name="desks-router-0", labels={"app.kubernetes.io/component": component})
    ready = client.V1PodCondition(type="Ready", status=str(is_ready))
    return client.V1Pod(metadata=head, status=client.V1PodStatus(pod_ip=address, conditions=[ready]))


def test_a_router_that_is_ready_can_be_asked_and_is_no_entry() -> None:
    found = router_pod()
    lighten(found)
    assert router_of(found) == "http://10.1.2.4:15001"
    assert entry_of(found) is None


@pytest.mark.parametrize("given", [router_pod(False), router_pod(address=None), router_pod(component="env")])
def test_others_are_not_asked(given: client.V1Pod) -> None:
    assert router_of(given) is None


def test_a_long_list_comes_in_pages_of_which_none_is_kept_whole() -> None:
    pods, asked = [whole_pod(number) for number in range(2 * PAGE_PODS + 1)], list[dict[str, Any]]()

    def listed(**given: Any) -> client.V1PodList:
        asked.append(given)
        start = int(given.get("_continue", 0))
        end = start + given["limit"]
        head = client.V1ListMeta(resource_version="77")
        head.var_continue = str(end) if end < len(pods) else None
        assert all(pod.spec is None for pod in pods[:start]), "the pages before are light"
        return client.V1PodList(items=pods[start:end], metadata=head)

    found = listed_in_pages(listed, {"namespace": "train"})
    assert [pod.metadata.name for pod in found.items] == [f"desks-{number}" for number in range(len(pods))]
    assert found.metadata.resource_version == "77"
    assert [given.get("_continue") for given in asked] == [None, "50", "100"]
    assert all(given["namespace"] == "train" for given in asked)
    assert all(pod.spec is None and pod.metadata.managed_fields is None for pod in found.items)
    assert entry_of(found.items[-1]) == RegistryEntry(env_idx=100, uid="u100", epoch=1, url="http://10.0.0.1:18082")


def whole_pod(number: int) -> client.V1Pod:
    labels = {"osworld.dev/env-idx": str(number), "osworld.dev/env-epoch": "1"}
    return client.V1Pod(
        metadata=client.V1ObjectMeta(
            name=f"desks-{number}", uid=f"u{number}", labels=labels, managed_fields=[client.V1ManagedFieldsEntry()]
        ),
        spec=client.V1PodSpec(containers=[]),
        status=client.V1PodStatus(phase="Running", pod_ip="10.0.0.1", conditions=[]),
    )


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


async def test_routers_come_and_go() -> None:
    registry = PodRegistry("train", "desks")
    registry.take_over("desks-router-0", None, "http://10.1.2.4:15001")
    assert list(registry.routers) == ["http://10.1.2.4:15001"]
    registry.take_over("desks-router-0", None)
    assert not registry.routers
