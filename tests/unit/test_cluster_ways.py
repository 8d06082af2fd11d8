"""The trainer's line for each kind of Service, and the verdicts on it."""

from typing import Any

import pytest

from osworld_contract.crd import OSWorldEnv
from osworld_contract.wire import HealthReply
from osworld_env.cluster.url_check import Verdict, judge
from osworld_env.cluster.ways import NoWayError, WayKind, find_way, node_addresses

READY = {"type": "Ready", "status": "True"}


def service(kind: str, node_port: int | None = None, **load_balancer: Any) -> dict[str, Any]:
    port = {"port": 15001} if node_port is None else {"port": 15001, "nodePort": node_port}
    return {
        "metadata": {"name": "desks-router", "namespace": "lab"},
        "spec": {"type": kind, "ports": [port]},
        "status": {"loadBalancer": load_balancer},
    }


def node(*addresses: tuple[str, str], ready: str = "True") -> dict[str, Any]:
    listed = [{"type": kind, "address": address} for kind, address in addresses]
    return {"status": {"conditions": [{"type": "Ready", "status": ready}], "addresses": listed}}


def line(kind: str, via: WayKind | None = None, host: str | None = None, **entries: Any) -> str:
    nodes = [node(("InternalIP", "10.0.0.7"))]
    found = find_way(via, "desks", service(kind, 31111 if kind != "ClusterIP" else None, **entries), nodes, host)
    return found.trainer_line("t0k")


@pytest.mark.parametrize(
    ("kind", "entries", "url"),
    [
        ("LoadBalancer", {"ingress": [{"ip": "203.0.113.9"}]}, "203.0.113.9:15001"),
        ("LoadBalancer", {"ingress": [{"hostname": "lb.example", "ip": "203.0.113.9"}]}, "lb.example:15001"),
        ("NodePort", {}, "10.0.0.7:31111"),
        ("ClusterIP", {}, "127.0.0.1:15001"),
    ],
)
def test_the_line_is_that_of_the_services_type(kind: str, entries: dict[str, Any], url: str) -> None:
    assert line(kind, **entries) == f"remote_server_url: http://job:t0k@{url}"


def test_another_way_and_another_host_can_be_asked_for() -> None:
    assert line("LoadBalancer", WayKind.NODE_PORT).endswith("@10.0.0.7:31111")
    assert line("NodePort", WayKind.CLUSTER).endswith("@desks-router.lab.svc:15001")
    assert line("NodePort", host="2001:db8::7").endswith("@[2001:db8::7]:31111")


def test_a_token_of_any_characters_fits_into_the_url() -> None:
    way = find_way(WayKind.TUNNEL, "desks", service("ClusterIP"), [])
    assert way.trainer_line("a/b@c:d").endswith("http://job:a%2Fb%40c%3Ad@127.0.0.1:15001")


@pytest.mark.parametrize(
    ("kind", "via", "said"),
    [
        ("LoadBalancer", None, "has no address yet"),
        ("ClusterIP", WayKind.LOAD_BALANCER, "set spec.router.service.type to LoadBalancer"),
        ("ClusterIP", WayKind.NODE_PORT, "set spec.router.service.type to NodePort"),
    ],
)
def test_a_way_that_is_not_there_is_refused_with_what_would_help(kind: str, via: WayKind | None, said: str) -> None:
    with pytest.raises(NoWayError, match=said):
        line(kind, via)


def test_external_addresses_of_ready_nodes_come_first() -> None:
    nodes = [
        node(("InternalIP", "10.0.0.1"), ready="False"),
        node(("InternalIP", "10.0.0.2")),
        node(("InternalIP", "10.0.0.3"), ("ExternalIP", "203.0.113.3")),
    ]
    assert node_addresses(nodes) == ["203.0.113.3", "10.0.0.2"]


def test_a_node_ports_notes_name_the_port_to_open() -> None:
    nodes = [node(("InternalIP", f"10.0.0.{n}")) for n in (1, 2)]
    notes = find_way(None, "desks", service("NodePort", 31111), nodes).notes
    assert "the port is 31111, not 15001" in notes[0]
    assert notes[1] == "other nodes: 10.0.0.2"


def health(ready: int, total: int, *, kvm: bool) -> HealthReply:
    return HealthReply.model_validate(
        {
            "provider": "qemu",
            "kvm_available": kvm,
            "kvm_device": None,
            "env_status": "initialized",
            "pool": {"ready": ready, "total": total},
        }
    )


def env(accelerator: str = "kvm", reason: str = "AsExpected") -> OSWorldEnv:
    condition = {"type": "Degraded", "reason": reason, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    condition["status"] = "False" if reason == "AsExpected" else "True"
    desktop = {"provider": "qemu", "accelerator": accelerator, "image": {"url": "/image"}}
    return OSWorldEnv.model_validate(
        {
            "metadata": {"name": "desks"},
            "spec": {"replicas": 2, "desktop": desktop},
            "status": {"conditions": [condition]},
        }
    )


@pytest.mark.parametrize(
    ("said", "pool", "verdict"),
    [
        (health(2, 2, kvm=True), env(), Verdict.OK),
        (health(1, 2, kvm=True), env(), Verdict.OK),
        (health(2, 2, kvm=False), env(), Verdict.NO_KVM),
        (health(2, 2, kvm=False), env("auto"), Verdict.NO_KVM),
        (health(2, 2, kvm=False), env("tcg"), Verdict.OK),
        (health(0, 0, kvm=False), env(reason="NoKVMDevice"), Verdict.NO_KVM),
        (health(0, 0, kvm=False), env(reason="InsufficientMemory"), Verdict.NO_READY_ENV),
        (health(0, 2, kvm=False), env(), Verdict.NO_READY_ENV),
    ],
)
def test_verdicts(said: HealthReply, pool: OSWorldEnv, verdict: Verdict) -> None:
    assert judge("router:15001", said, pool).verdict is verdict
