"""The ways from a trainer to a pool's router: load balancer, node port, tunnel, inside the cluster. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from osworld_contract.kube_names import router_name
from osworld_contract.names import ROUTER_PORT
from osworld_env.errors import CliError


class WayKind(StrEnum):
    """How a trainer reaches a router."""

    LOAD_BALANCER = "loadbalancer"
    NODE_PORT = "nodeport"
    TUNNEL = "tunnel"
    """``kubectl port-forward`` on the trainer's machine."""
    CLUSTER = "cluster"
    """By the Service's name, for a trainer that is a pod."""


class NoWayError(CliError):
    """The Service offers no such way, or not yet."""


@dataclass(frozen=True)
class Way:
    """One way."""

    kind: WayKind
    host: str
    port: int
    notes: tuple[str, ...] = ()
    """What has to be done or known for it."""

    def url(self, token: str | None) -> str:
        """Return the router's URL on this way, with `token` as user info."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = "" if token is None else f"job:{quote(token, safe='')}@"
        return f"http://{user}{host}:{self.port}"

    def trainer_line(self, token: str) -> str:
        """Return the line of the trainer's configuration."""
        return f"remote_server_url: {self.url(token)}"


def find_way(
    kind: WayKind | None, pool: str, service: dict[str, Any], nodes: list[dict[str, Any]], host: str | None = None
) -> Way:
    """Return the way of `kind`, or for None that of the Service's type. `host` goes before the one found.

    Raises:
        NoWayError: The Service does not offer it, or not yet; the message says what would.
    """
    chosen = kind or _kind_of(service)
    if chosen is WayKind.LOAD_BALANCER:
        return _load_balancer(pool, service, host)
    if chosen is WayKind.NODE_PORT:
        return _node_port(pool, service, nodes, host)
    namespace = service["metadata"]["namespace"]
    if chosen is WayKind.TUNNEL:
        command = f"kubectl port-forward -n {namespace} service/{router_name(pool)} {ROUTER_PORT}"
        note = f"on the trainer's machine, as long as it trains: {command}"
        return Way(chosen, host or "127.0.0.1", ROUTER_PORT, (note,))
    return Way(chosen, host or f"{router_name(pool)}.{namespace}.svc", ROUTER_PORT, ("for pods of this cluster only",))


def _kind_of(service: dict[str, Any]) -> WayKind:
    kinds = {"LoadBalancer": WayKind.LOAD_BALANCER, "NodePort": WayKind.NODE_PORT}
    return kinds.get(service["spec"]["type"], WayKind.TUNNEL)


def _load_balancer(pool: str, service: dict[str, Any], host: str | None) -> Way:
    if service["spec"]["type"] != "LoadBalancer":
        raise NoWayError(f"the router of {pool} has no load balancer: set spec.router.service.type to LoadBalancer")
    entries = service.get("status", {}).get("loadBalancer", {}).get("ingress", ())
    found = next((entry.get("hostname") or entry.get("ip") for entry in entries), None)
    if found is None and host is None:
        raise NoWayError(
            f"the load balancer of {pool} has no address yet", ("meanwhile: --via nodeport, or --via tunnel",)
        )
    return Way(WayKind.LOAD_BALANCER, host or str(found), ROUTER_PORT)


def _node_port(pool: str, service: dict[str, Any], nodes: list[dict[str, Any]], host: str | None) -> Way:
    port = next((item.get("nodePort") for item in service["spec"]["ports"]), None)
    if port is None:
        raise NoWayError(f"the router of {pool} has no node port: set spec.router.service.type to NodePort")
    found = node_addresses(nodes)
    if not found and host is None:
        raise NoWayError("no node of the cluster is ready")
    notes = [f"the port is {port}, not {ROUTER_PORT}: open it for the trainer's machine (security group, firewall)"]
    if host is None and len(found) > 1:
        notes.append(f"other nodes: {', '.join(found[1:4])}")
    return Way(WayKind.NODE_PORT, host or found[0], int(port), tuple(notes))


def node_addresses(nodes: list[dict[str, Any]]) -> list[str]:
    """Return one address of each ready node: external ones first, for a trainer is seldom in the nodes' network."""
    external, internal = [], []
    for node in nodes:
        status = node.get("status", {})
        if not any(item["type"] == "Ready" and item["status"] == "True" for item in status.get("conditions", ())):
            continue
        by_type = {item["type"]: item["address"] for item in reversed(status.get("addresses", ()))}
        if outside := by_type.get("ExternalIP") or by_type.get("ExternalDNS"):
            external.append(outside)
        elif inside := by_type.get("InternalIP"):
            internal.append(inside)
    return [*external, *internal]
