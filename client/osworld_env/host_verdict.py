"""What the facts about a machine mean: is there KVM for desktops, does it work, and what is to be switched on. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from osworld_env.host_facts import Device, HostFacts
from osworld_env.machine_probes import Finding, Level


class Platform(StrEnum):
    """What a machine runs on, as far as it tells."""

    HARDWARE = "hardware"
    VMWARE = "VMware"
    EC2 = "EC2"
    EC2_METAL = "EC2 metal"
    KVM = "KVM or QEMU"
    VIRTUALBOX = "VirtualBox"
    HYPERV = "Hyper-V or Azure"
    GOOGLE = "Google Compute Engine"
    PARALLELS = "Parallels"
    APPLE = "a Mac's virtualization framework"
    UNKNOWN = "a hypervisor that does not tell its name"
    MAC = "macOS"


class Kvm(StrEnum):
    """Whether virtual machines can use KVM here."""

    WORKS = "works"
    """A kernel has booted under it."""
    UNPROVEN = "unproven"
    """Nothing speaks against it, and no kernel has been booted under it."""
    BROKEN = "broken"
    """There, and of no use."""
    NONE = "none"


@dataclass(frozen=True)
class HostVerdict:
    """What `judge` found."""

    kvm: Kvm
    platform: Platform
    findings: tuple[Finding, ...]

    @property
    def advice(self) -> tuple[str, ...]:
        """Return what is to be done, first things first."""
        return tuple(finding.advice for finding in self.findings if finding.advice)


_VENDORS: Final = (
    ("Amazon EC2", Platform.EC2),
    ("VMware", Platform.VMWARE),
    ("innotek", Platform.VIRTUALBOX),
    ("Microsoft", Platform.HYPERV),
    ("Google", Platform.GOOGLE),
    ("Parallels", Platform.PARALLELS),
    ("Apple", Platform.APPLE),
    ("QEMU", Platform.KVM),
    ("Red Hat", Platform.KVM),
)
"""Beginnings of DMI's ``sys_vendor``."""

SWITCH_ON: Final = {
    Platform.HARDWARE: "switch on virtualization (Intel VT-x, AMD SVM) in the firmware's set-up",
    Platform.VMWARE: (
        "shut the VM down; in Fusion: Settings > Processors & Memory > Advanced options > 'Enable hypervisor "
        "applications in this virtual machine'; in Workstation: Processors > 'Virtualize Intel VT-x/EPT or AMD-V/RVI'; "
        'in the .vmx file both are: vhv.enable = "TRUE"'
    ),
    Platform.EC2: (
        "most instance types have no KVM: take a .metal type, or one that `aws ec2 describe-instance-types --filters "
        "Name=processor-info.supported-features,Values=nested-virtualization` lists (C8i, M8i, R8i); "
        "stop it, then `aws ec2 modify-instance-cpu-options --instance-id ID --nested-virtualization enabled`, "
        "or launch it with `--cpu-options NestedVirtualization=enabled`"
    ),
    Platform.EC2_METAL: "a .metal instance should show its processor's extension: ask AWS, or take another one",
    Platform.KVM: (
        "on the machine below: `options kvm_intel nested=1` (AMD: kvm_amd) in /etc/modprobe.d/, reload the module, and "
        "give the VM the host's processor (QEMU: -cpu host, libvirt: host-passthrough)"
    ),
    Platform.VIRTUALBOX: "shut the VM down; VBoxManage modifyvm NAME --nested-hw-virt on",
    Platform.HYPERV: (
        "Hyper-V: Set-VMProcessor -VMName NAME -ExposeVirtualizationExtensions $true, with the VM off; Azure: a size "
        "that supports nested virtualization"
    ),
    Platform.GOOGLE: (
        "stop the instance and set advancedMachineFeatures.enableNestedVirtualization=true "
        "(gcloud compute instances update)"
    ),
    Platform.PARALLELS: "shut the VM down; Hardware > CPU & Memory > Advanced > 'Enable nested virtualization'",
    Platform.APPLE: "use a virtual machine whose hypervisor offers nested virtualization, or a Linux machine",
    Platform.UNKNOWN: "ask whoever runs the machine below for nested virtualization",
    Platform.MAC: (
        "KVM is a part of Linux: run the env server in an Ubuntu VM of this Mac (docs/nested-kvm.md), and this check "
        "again in there"
    ),
}
"""What gives a machine of each kind the processor's extension. Sources: the vendors' manuals; only what
docs/nested-kvm.md says was tried was tried."""


def judge(facts: HostFacts) -> HostVerdict:
    """Return what `facts` mean."""
    platform = platform_of(facts)
    if platform is Platform.MAC:
        return HostVerdict(Kvm.NONE, platform, _mac(facts))
    findings = (
        Finding("machine", Level.OK, _machine_words(facts, platform)),
        *_extension(facts, platform),
        *_modules(facts),
        _device(facts),
        *_proof(facts, platform),
        *_nested(facts, platform),
    )
    return HostVerdict(_kvm(facts), platform, findings)


def platform_of(facts: HostFacts) -> Platform:
    """Return what the machine runs on."""
    if facts.system == "darwin":
        return Platform.MAC
    for beginning, platform in _VENDORS:
        if facts.dmi_vendor.startswith(beginning):
            if platform is Platform.EC2 and ".metal" in facts.dmi_product:
                return Platform.EC2_METAL
            if platform in (Platform.HYPERV, Platform.GOOGLE, Platform.APPLE) and not facts.is_guest:
                return Platform.HARDWARE  # a Surface, a Mac with Linux: the vendor makes machines, too
            return platform
    return Platform.UNKNOWN if facts.is_guest else Platform.HARDWARE


def _kvm(facts: HostFacts) -> Kvm:
    if facts.proof.works:
        return Kvm.WORKS
    if facts.device is Device.ABSENT:
        return Kvm.NONE
    if facts.proof.works is False or facts.device is not Device.ANSWERS:
        return Kvm.BROKEN
    return Kvm.BROKEN if _lacks_extension(facts) else Kvm.UNPROVEN


def _lacks_extension(facts: HostFacts) -> bool:
    # ARM has no such flag: a kernel that was started at EL2 says so in its log only, which needs root.
    return facts.machine == "x86_64" and not facts.has_virtualization


def _machine_words(facts: HostFacts, platform: Platform) -> str:
    product = f" ({facts.dmi_product})" if facts.dmi_product else ""
    inside = ", inside a container" if facts.is_container else ""
    if platform in (Platform.HARDWARE, Platform.EC2_METAL):
        return f"no virtual machine{product}{inside}"
    return f"a virtual machine on {platform}{product}{inside}"


def _extension(facts: HostFacts, platform: Platform) -> list[Finding]:
    if facts.machine != "x86_64":
        words = f"{facts.machine}: OSWorld's images are for x86_64, and run here under emulation, KVM or not"
        return [Finding("processor", Level.NOTE, words)]
    if facts.has_virtualization:
        name = "Intel VT-x" if "vmx" in facts.cpu_flags else "AMD-V"
        return [Finding("processor", Level.OK, f"shows {name}")]
    words = "shows no VT-x or AMD-V: no virtual machine of this machine can use KVM"
    return [Finding("processor", Level.MISSING, words, SWITCH_ON[platform])]


def _modules(facts: HostFacts) -> list[Finding]:
    """Judge the kernel's modules, where the processor could use them."""
    if not facts.has_virtualization:
        return []
    wanted = _module(facts)
    if wanted in facts.modules:
        return [Finding("module", Level.OK, f"{wanted} is loaded")]
    if facts.device is Device.ANSWERS:
        return [Finding("module", Level.OK, f"{wanted} is in the kernel itself or hidden from this container")]
    return [Finding("module", Level.MISSING, f"{wanted} is not loaded", f"sudo modprobe {wanted}")]


def _device(facts: HostFacts) -> Finding:
    if facts.device is Device.ANSWERS:
        return Finding("/dev/kvm", Level.OK, "opens and answers, which does not yet prove that a guest boots")
    if facts.device is Device.ABSENT:
        advice = "start the container with: docker run --device /dev/kvm ..." if facts.is_container else ""
        return Finding("/dev/kvm", Level.MISSING, "is not there", advice)
    if facts.device is Device.FAILS:
        return Finding("/dev/kvm", Level.MISSING, facts.device_detail or "does not answer")
    if facts.is_container:
        return Finding("/dev/kvm", Level.MISSING, "may not be opened by this container's user", _container_group(facts))
    if facts.is_member_after_login:
        advice = f"log in again: this session does not know yet that you are in the group {facts.device_group}"
    elif facts.device_group in ("", "root"):
        advice = (
            "sudo apt-get install qemu-system-x86 (its rules give /dev/kvm to the group kvm), then sudo udevadm trigger"
        )
    else:
        advice = f"sudo usermod -aG {facts.device_group} $USER, then log in again"
    return Finding("/dev/kvm", Level.MISSING, "is there, this user may not open it", advice)


def _container_group(facts: HostFacts) -> str:
    return f"start the container with --group-add and the number of the host's group {facts.device_group or 'kvm'}"


def _proof(facts: HostFacts, platform: Platform) -> list[Finding]:
    if facts.device is not Device.ANSWERS:
        return []
    if facts.proof.works:
        return [Finding("boot under KVM", Level.OK, "a kernel has booted")]
    if facts.proof.works is None:
        advice = "" if _lacks_extension(facts) else "make setup-vm (QEMU and a kernel), then this check again"
        return [Finding("boot under KVM", Level.NOTE, f"not tried: {facts.proof.reason or 'not asked'}", advice)]
    return [Finding("boot under KVM", Level.MISSING, f"failed: {facts.proof.reason}", _mend(facts, platform))]


def _mend(facts: HostFacts, platform: Platform) -> str:
    """Return what may help where no kernel boots; nothing where the processor's extension is what is missing."""
    if _lacks_extension(facts) or facts.machine != "x86_64":
        return ""
    module = _module(facts)
    where = "on the container's host: " if facts.is_container else ""
    below = f"; if it still fails, {SWITCH_ON[platform]}" if facts.is_guest else ""
    return (
        f"{where}`sudo dmesg | grep -i kvm` may say why; with every VM off load the module anew (sudo modprobe -r "
        f"{module} && sudo modprobe {module}), then this check again{below}"
    )


def _module(facts: HostFacts) -> str:
    return "kvm_intel" if "vmx" in facts.cpu_flags else "kvm_amd"


def _nested(facts: HostFacts, platform: Platform) -> list[Finding]:
    """Judge the parameter that matters to whoever runs env servers in a virtual machine of this machine."""
    if facts.is_nested_on is not False or platform not in (Platform.HARDWARE, Platform.EC2_METAL):
        return []
    module = _module(facts)
    return [
        Finding(
            "nested",
            Level.NOTE,
            "virtual machines of this machine get no KVM of their own; only needed for env servers inside one",
            f"echo 'options {module} nested=1' | sudo tee /etc/modprobe.d/osworld-kvm.conf; with every VM off: "
            f"sudo modprobe -r {module} && sudo modprobe {module}",
        )
    ]


def _mac(facts: HostFacts) -> tuple[Finding, ...]:
    machine = Finding("machine", Level.OK, "a Mac")
    if "vmx" in facts.cpu_flags:
        return (
            machine,
            Finding("processor", Level.OK, "Intel, with VT-x: an Ubuntu VM in Fusion can have KVM"),
            Finding("/dev/kvm", Level.MISSING, "is not there: macOS has no KVM", SWITCH_ON[Platform.MAC]),
        )
    return (
        machine,
        Finding(
            "processor",
            Level.MISSING,
            "shows no VT-x (Apple silicon has none): OSWorld's x86_64 images would run under emulation, KVM or not",
            "use a Linux machine with KVM for virtual machines, or the xvfb provider in a Linux VM of this Mac",
        ),
    )
