"""What can be read about virtualization on this machine, without root and without changing anything.

Only facts: what they mean is `host_verdict`. Whether a guest really boots is asked of the env server's own proof, in a
process of its own, since parts do not import each other.
"""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from osworld_env.errors import CliError
from osworld_env.machine_probes import KVM_DEVICE, Level, probe_kvm
from osworld_env.modules import QEMU_DESKTOP, ask_module

PROOF_DEADLINE_S: Final = 150.0
"""For a proof (two boots of 20 s at most, after another env server's), a Python start and a look for the image. A guess
with room."""

_CONTAINER_MARKS: Final = (".dockerenv", "run/.containerenv")
_ON: Final = frozenset({"Y", "1"})


class Device(StrEnum):
    """How /dev/kvm answers this user."""

    ABSENT = "absent"
    DENIED = "denied"
    FAILS = "fails"
    """Opens not for another reason, or answers wrongly."""
    ANSWERS = "answers"


class KvmProof(BaseModel):
    """What ``python -m osworld_envpod.desktops.qemu --prove-kvm`` prints: whether a kernel has booted under KVM."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    works: bool | None
    """None: it could not be tried."""
    reason: str = ""


NOT_PROVEN: Final = KvmProof(works=None)


@dataclass(frozen=True)
class HostFacts:
    """What was read. An empty text: it is not known here."""

    system: str
    """``linux`` or ``darwin``."""
    machine: str
    """``x86_64``, ``aarch64`` or ``arm64``."""
    cpu_flags: frozenset[str] = frozenset()
    """Of the first processor, as /proc/cpuinfo has them."""
    modules: frozenset[str] = frozenset()
    """Loaded modules whose name begins with ``kvm``."""
    is_nested_on: bool | None = None
    """The module's parameter ``nested``: virtual machines of this machine may use KVM too."""
    dmi_vendor: str = ""
    dmi_product: str = ""
    """On EC2's Nitro the instance type, for example ``m8i.large``."""
    is_container: bool = False
    device: Device = Device.ABSENT
    device_detail: str = ""
    device_group: str = ""
    """The group that owns /dev/kvm."""
    is_member_after_login: bool = False
    """The user is in that group, this session is not yet."""
    proof: KvmProof = NOT_PROVEN

    @property
    def has_virtualization(self) -> bool:
        """Return whether the processor shows its extension (VT-x or AMD-V) to this kernel."""
        return bool(self.cpu_flags & {"vmx", "svm"})

    @property
    def is_guest(self) -> bool:
        """Return whether this is a virtual machine."""
        return "hypervisor" in self.cpu_flags


def read_facts(root: Path = Path("/")) -> HostFacts:
    """Return the facts of this machine; files are read below `root`. The proof boot is not among them."""
    modules = frozenset(path.name for path in (root / "sys/module").glob("kvm*"))
    device, detail = _device()
    group, after_login = _group(KVM_DEVICE)
    return HostFacts(
        system=sys.platform,
        machine=platform.machine(),
        cpu_flags=cpu_flags(_read(root / "proc/cpuinfo")) if sys.platform == "linux" else _mac_flags(),
        modules=modules,
        is_nested_on=_nested(root, modules),
        dmi_vendor=_read(root / "sys/class/dmi/id/sys_vendor"),
        dmi_product=_read(root / "sys/class/dmi/id/product_name"),
        is_container=any((root / mark).exists() for mark in _CONTAINER_MARKS),
        device=device,
        device_detail=detail,
        device_group=group,
        is_member_after_login=after_login,
    )


def ask_proof() -> KvmProof:
    """Return whether a kernel boots under KVM, by the env server's own proof; it takes seconds."""
    try:
        done = ask_module(QEMU_DESKTOP, "--prove-kvm", deadline_s=PROOF_DEADLINE_S)
    except CliError as error:
        return KvmProof(works=None, reason=error.message)
    try:
        return KvmProof.model_validate_json(done.stdout)
    except ValidationError:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return KvmProof(works=None, reason=f"the proof gave no answer (exit code {done.returncode}): {last}")


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the first processor's flags in the text of /proc/cpuinfo. Pure."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


def mac_flags(sysctl: Mapping[str, str]) -> frozenset[str]:
    """Return flags by their Linux names, from a Mac's ``sysctl``. Pure."""
    flags = set()
    if "VMX" in sysctl.get("machdep.cpu.features", "").split():
        flags.add("vmx")
    if sysctl.get("kern.hv_vmm_present") == "1":
        flags.add("hypervisor")
    return frozenset(flags)


def _mac_flags() -> frozenset[str]:
    names = ("machdep.cpu.features", "kern.hv_vmm_present")
    try:
        asked = {
            name: subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=10, check=False).stdout
            for name in names
        }
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    return mac_flags({name: value.strip() for name, value in asked.items()})


def _device() -> tuple[Device, str]:
    if not KVM_DEVICE.exists():
        return Device.ABSENT, ""
    found = probe_kvm()
    if found.level is Level.OK:
        return Device.ANSWERS, ""
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return Device.DENIED, found.detail
    return Device.FAILS, found.detail


def _group(device: Path) -> tuple[str, bool]:
    """Return the device's group, and whether the user is a member whose session does not know it yet."""
    import grp  # noqa: PLC0415 - not there outside Unix
    import pwd  # noqa: PLC0415

    try:
        entry = grp.getgrgid(device.stat().st_gid)
        user = pwd.getpwuid(os.getuid()).pw_name
    except (OSError, KeyError):
        return "", False
    return entry.gr_name, user in entry.gr_mem and entry.gr_gid not in os.getgroups()


def _nested(root: Path, modules: frozenset[str]) -> bool | None:
    for module in sorted(modules & {"kvm_intel", "kvm_amd"}):
        if value := _read(root / "sys/module" / module / "parameters/nested"):
            return value in _ON
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
