"""From a fault to what a person may do about it: one sentence. Pure; used by `check` and `run`."""

from typing import Final

from osworld_contract.faults import SPECS, Fault, FaultReason
from osworld_contract.names import ENV_SERVER_PORT, ENV_TOKEN, ROUTER_PORT
from osworld_env.client_faults import Cause

_CAUSES: Final = {
    Cause.DNS: "check the host's spelling and this machine's DNS",
    Cause.REFUSED: (
        f"the server is not running, or listens on another port or address: `osworld-env up` listens on {ROUTER_PORT}, "
        f"`osworld-env serve` on {ENV_SERVER_PORT}, both on 127.0.0.1 unless --host says otherwise"
    ),
    Cause.CONNECT_TIMEOUT: "a firewall or security group drops packets to this port, or the host is down: "
    "open the port for this machine, or use an SSH tunnel to 127.0.0.1",
    Cause.READ_TIMEOUT: "the server is alive but slow or stuck: its log says in which stage",
    Cause.TLS: "the server may speak plain http:// at this port, or its certificate does not fit the host's name",
    Cause.DROPPED: "the server ended in the middle of the call, or the port belongs to another program: see its log",
}

_REASONS: Final = {
    FaultReason.UNAUTHORIZED: f"put the token into the URL, http://job:TOKEN@host:{ROUTER_PORT}, or into the variable "
    f"{ENV_TOKEN}",
    FaultReason.NOT_FOUND: "the address has a path that the server does not serve: give the base URL, without /env",
    FaultReason.UNKNOWN_ENV: "GET /envs of the router lists the env_idx that there are",
    FaultReason.BUSY: "another client uses this env: choose another env_idx or wait",
    FaultReason.ENV_DOWN: "the env server behind the router is restarting or gone: try again, then see its log",
    FaultReason.ENV_DRAINING: "this env server is on its way out: choose another env_idx",
    FaultReason.CANARY_WRONG: "restart this env server, and look at its log and at the records of its canaries first",
    FaultReason.NO_EPISODE: "reset first",
    FaultReason.REPLY_LOST: "a router, tunnel or client went away in the middle of a call: reset and play again",
    FaultReason.DESKTOP_START_FAILED: "run `osworld-env doctor` on the server's machine: it names what is missing",
    FaultReason.GUEST_UNREACHABLE: "the desktop's guest agent is down; the next reset starts a fresh one",
    FaultReason.DISK_FULL: "free disk space on the server's machine",
    FaultReason.WORKER_START_FAILED: "run `osworld-env setup` on the server's machine, which builds the task worker",
    FaultReason.WORKER_MEMORY: "the evaluator needs more memory than the task worker may use",
    FaultReason.DOWNLOAD_FAILED: "the server's machine needs the network for this task, or OSWORLD_TASK_MIRROR",
    FaultReason.SETUP_MODULE_MISSING: "run `osworld-env setup` on the server's machine",
    FaultReason.EVALUATOR_MODULE_MISSING: "run `osworld-env setup` on the server's machine",
    FaultReason.INTERNAL: "the server's log has the traceback",
}

KVM_HINT: Final = (
    "no KVM on the server's machine: virtual machines would run in software emulation; xvfb desktops need no KVM"
)


def hint_for(fault: Fault) -> str:
    """Return what may be done about `fault`, without a full stop; its meaning where nothing better is known."""
    cause = fault.evidence.get("cause")
    if isinstance(cause, str) and cause in list(Cause):
        return _CAUSES[Cause(cause)]
    if fault.evidence.get("is_from_status"):
        status = fault.evidence.get("http_status")
        if fault.reason is not FaultReason.UNAUTHORIZED:
            return f"HTTP {status} came without a fault: from a proxy in between, or a server that is not osworld-env"
    if hint := _REASONS.get(fault.reason):
        return hint
    meaning = SPECS[fault.reason].meaning
    return f"{meaning}; a retry may help" if fault.retryable else meaning
