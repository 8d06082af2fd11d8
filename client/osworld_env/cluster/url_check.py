"""``pool url --check``: does the trainer's line work from this machine, and if not, which of few things is wrong."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from osworld_contract.crd import Accelerator, ConditionReason, OSWorldEnv, Provider
from osworld_contract.faults import FaultError, FaultReason
from osworld_contract.wire import HealthReply
from osworld_env.client import EnvClient
from osworld_env.client_faults import Cause
from osworld_env.cluster.tables import condition_line
from osworld_env.cluster.ways import Way, WayKind
from osworld_env.hints import hint_for
from osworld_env.reach import reach


class Verdict(StrEnum):
    """What `check_way` found."""

    OK = "ok"
    PORT_CLOSED = "port closed"
    """Packets are dropped: a firewall or security group, or no such host."""
    REFUSED = "connection refused"
    """The host is there, and nothing listens: no tunnel, or no router is ready."""
    UNREACHABLE = "not reachable"
    UNAUTHORIZED = "401"
    NO_READY_ENV = "no ready env"
    NO_KVM = "no KVM"


@dataclass(frozen=True)
class Finding:
    """The verdict, what was seen, and what to do."""

    verdict: Verdict
    detail: str
    hint: str | None = None


_TUNNEL_HINT: Final = "the tunnel does not run: start the command above on this machine"
_KVM_HINT: Final = (
    "the nodes' KVM does not work, so desktops are emulated, some twenty times slower: `osworld-env host check` on a "
    "node says what to switch on; desktop.accelerator: tcg if that is meant"
)


def check_way(way: Way, token: str, env: OSWorldEnv) -> Finding:
    """Try `way` from this machine, in rungs: TCP, health, token, ready envs, KVM. No env is touched."""
    with EnvClient(way.url(token)) as client:
        try:
            where = reach(client.address)
            health = client.health()
        except FaultError as error:
            return _unreached(way, error)
        try:
            client.state()
        except FaultError as error:
            if error.fault.reason is FaultReason.UNAUTHORIZED:
                hint = "the Secret's token is not the router's: routers read it when they start; restart them, or wait"
                return Finding(Verdict.UNAUTHORIZED, "the router does not accept the token", hint)
    return judge(where, health, env)


def judge(where: str, health: HealthReply, env: OSWorldEnv) -> Finding:
    """Return the verdict on a pool whose router at `where` answers, lets us in, and says `health`."""
    numbers = (health.model_extra or {}).get("pool") or {}
    ready, total = int(numbers.get("ready", 0)), int(numbers.get("total", 0))
    wants_kvm = env.spec.desktop.provider is Provider.QEMU and env.spec.desktop.accelerator is not Accelerator.TCG
    is_without_device = any(
        item.reason == ConditionReason.NO_KVM_DEVICE and item.status == "True" for item in env.status.conditions
    )
    seen = f"{where}: {ready} of {env.spec.replicas} envs ready, provider {health.provider}"
    if wants_kvm and is_without_device and ready < env.spec.replicas:
        return Finding(Verdict.NO_KVM, seen, condition_line(env))
    if ready == 0:
        why = "envs have a number and do not answer" if total else "no env has come up yet"
        return Finding(Verdict.NO_READY_ENV, seen, f"{why}; the pool says: {condition_line(env)}")
    if wants_kvm and not health.kvm_available:
        return Finding(Verdict.NO_KVM, seen, _KVM_HINT)
    return Finding(Verdict.OK, seen)


def _unreached(way: Way, error: FaultError) -> Finding:
    fault = error.fault
    cause = fault.evidence.get("cause")
    if cause == Cause.CONNECT_TIMEOUT:
        hint = f"open TCP port {way.port} of {way.host} for this machine in its security group or firewall"
        return Finding(Verdict.PORT_CLOSED, fault.message, hint)
    if cause == Cause.REFUSED:
        hint = _TUNNEL_HINT if way.kind is WayKind.TUNNEL else "no router of the pool is ready, or the host is another"
        return Finding(Verdict.REFUSED, fault.message, hint)
    return Finding(Verdict.UNREACHABLE, fault.message, hint_for(fault))
