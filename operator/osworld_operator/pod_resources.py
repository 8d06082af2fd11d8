"""What the containers of env pods ask for. Pure."""

from typing import Any, Final

from osworld_contract.crd import Accelerator, OSWorldEnvSpec, Provider
from osworld_operator.pod_variables import WORKER_MEMORY_MIB

CPU_SHARE: Final = 4
"""A desktop asks for one in so many of its processors: between steps it is idle or paused. A guess."""

SERVER_MEMORY_MIB: Final = 768
"""What env server and an idle task worker use, with room. Measured: 90 and 250."""

SPARE_MEMORY_SHARE: Final = 4
"""A forked virtual machine that waits touches a quarter of its memory at most. A guess with room: some 50 MiB."""

XVFB_MEMORY_SHARE: Final = 4
"""An xvfb desktop asks for a quarter of its limit: without a browser it uses 200 MiB."""


def server_resources(spec: OSWorldEnvSpec) -> dict[str, Any]:
    """Return requests and limits of the container ``server``; those of ``podTemplate.resources`` win."""
    desktop = spec.desktop
    requests = {"cpu": "250m", "memory": f"{SERVER_MEMORY_MIB}Mi"}
    limits = {"memory": f"{SERVER_MEMORY_MIB + WORKER_MEMORY_MIB}Mi"}
    if desktop.provider is Provider.QEMU:
        machine_mib = desktop.memory.mib
        requests = {"cpu": _cpu(desktop.cpus), "memory": f"{SERVER_MEMORY_MIB + machine_mib}Mi"}
        most_mib = SERVER_MEMORY_MIB + WORKER_MEMORY_MIB + machine_mib + machine_mib // SPARE_MEMORY_SHARE
        limits = {"memory": f"{most_mib}Mi"}
    if needs_device(spec):
        limits[spec.scheduling.kvm_resource] = "1"
    given = spec.pod_template.resources
    return {
        "requests": {**requests, **_text(given.requests)},
        "limits": {**limits, **_text(given.limits)},
    }


def desktop_resources(spec: OSWorldEnvSpec) -> dict[str, Any]:
    """Return requests and limits of an xvfb desktop's container."""
    desktop = spec.desktop
    return {
        "requests": {"cpu": _cpu(desktop.cpus), "memory": f"{desktop.memory.mib // XVFB_MEMORY_SHARE}Mi"},
        "limits": {"cpu": str(desktop.cpus), "memory": f"{desktop.memory.mib}Mi"},
    }


def needs_device(spec: OSWorldEnvSpec) -> bool:
    """Return whether env pods ask a node plugin for /dev/kvm."""
    is_machine = spec.desktop.provider is Provider.QEMU and spec.desktop.accelerator is not Accelerator.TCG
    return is_machine and bool(spec.scheduling.kvm_resource)


def _cpu(cpus: int) -> str:
    return f"{cpus * 1000 // CPU_SHARE}m"


def _text(given: dict[str, Any]) -> dict[str, str]:
    return {name: str(amount) for name, amount in given.items()}
