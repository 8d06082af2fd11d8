"""`osworld-env host check`: what facts about a machine mean."""

from dataclasses import replace

import pytest

from osworld_env.host_facts import Device, HostFacts, KvmProof, cpu_flags, mac_flags
from osworld_env.host_verdict import Kvm, Platform, judge, platform_of
from osworld_env.machine_probes import Level

INTEL = HostFacts(
    system="linux",
    machine="x86_64",
    cpu_flags=frozenset({"vmx", "sse2"}),
    modules=frozenset({"kvm", "kvm_intel"}),
    is_nested_on=True,
    dmi_vendor="Dell Inc.",
    dmi_product="PowerEdge R750",
    device=Device.ANSWERS,
    device_group="kvm",
    proof=KvmProof(works=True),
)
GUEST = frozenset({"hypervisor", "sse2"})
BARE_GUEST = replace(INTEL, cpu_flags=GUEST, modules=frozenset(), device=Device.ABSENT, proof=KvmProof(works=None))


def advice(facts: HostFacts) -> str:
    return "\n".join(judge(facts).advice)


def level_of(facts: HostFacts, name: str) -> Level:
    return next(finding.level for finding in judge(facts).findings if finding.name == name)


def test_a_kernel_that_booted_is_all_that_counts() -> None:
    verdict = judge(INTEL)
    assert verdict.kvm is Kvm.WORKS
    assert verdict.advice == ()
    assert {finding.level for finding in verdict.findings} == {Level.OK}


def test_an_open_device_without_a_boot_is_unproven() -> None:
    facts = replace(INTEL, proof=KvmProof(works=None, reason="qemu-system-x86_64 is not installed"))
    assert judge(facts).kvm is Kvm.UNPROVEN
    assert level_of(facts, "boot under KVM") is Level.NOTE
    assert "make setup-vm" in advice(facts)


def test_an_open_device_under_which_no_kernel_boots_is_broken() -> None:
    facts = replace(INTEL, proof=KvmProof(works=False, reason="a kernel did not boot under it in 20 s"))
    verdict = judge(facts)
    assert verdict.kvm is Kvm.BROKEN
    assert "did not boot" in verdict.findings[-1].detail
    assert "sudo modprobe -r kvm_intel && sudo modprobe kvm_intel), then this check again" in advice(facts)
    assert "nested" not in advice(facts)
    inside = replace(facts, dmi_vendor="QEMU", cpu_flags=GUEST | {"svm"}, is_container=True)
    assert "on the container's host: " in advice(inside)
    assert "kvm_amd" in advice(inside)
    assert "on the machine below: `options kvm_intel nested=1`" in advice(inside)


def test_a_device_without_the_processors_extension_is_broken_even_if_nothing_could_be_booted() -> None:
    facts = replace(INTEL, cpu_flags=GUEST, modules=frozenset({"kvm", "kvm_pvm"}), proof=KvmProof(works=None))
    assert judge(facts).kvm is Kvm.BROKEN
    assert level_of(facts, "processor") is Level.MISSING
    assert "dmesg" not in advice(replace(facts, proof=KvmProof(works=False, reason="no boot")))


@pytest.mark.parametrize(
    ("vendor", "product", "platform", "words"),
    [
        ("VMware, Inc.", "VMware20,1", Platform.VMWARE, 'vhv.enable = "TRUE"'),
        ("VMware, Inc.", "VMware20,1", Platform.VMWARE, "Enable hypervisor applications"),
        ("Amazon EC2", "m5.large", Platform.EC2, "processor-info.supported-features"),
        ("Amazon EC2", "m8i.large", Platform.EC2, "NestedVirtualization=enabled"),
        ("QEMU", "Standard PC (Q35 + ICH9, 2009)", Platform.KVM, "nested=1"),
        ("innotek GmbH", "VirtualBox", Platform.VIRTUALBOX, "--nested-hw-virt on"),
        ("Microsoft Corporation", "Virtual Machine", Platform.HYPERV, "ExposeVirtualizationExtensions"),
        ("Google", "Google Compute Engine", Platform.GOOGLE, "enableNestedVirtualization"),
        ("Parallels International GmbH.", "Parallels ARM Virtual Machine", Platform.PARALLELS, "nested virtualization"),
        ("", "", Platform.UNKNOWN, "ask whoever runs"),
    ],
)
def test_a_guest_without_the_extension_is_told_what_to_switch_on(
    vendor: str, product: str, platform: Platform, words: str
) -> None:
    facts = replace(BARE_GUEST, dmi_vendor=vendor, dmi_product=product)
    verdict = judge(facts)
    assert verdict.platform is platform
    assert verdict.kvm is Kvm.NONE
    assert words in advice(facts)
    assert "sudo modprobe" not in advice(facts)


@pytest.mark.parametrize(
    ("vendor", "product", "flags", "platform"),
    [
        ("Amazon EC2", "c5.metal", {"vmx"}, Platform.EC2_METAL),
        ("Amazon EC2", "i3.metal-24xl", {"vmx"}, Platform.EC2_METAL),
        ("Microsoft Corporation", "Surface Pro 9", {"vmx"}, Platform.HARDWARE),
        ("Apple Inc.", "MacBookPro16,1", {"vmx"}, Platform.HARDWARE),
        ("LENOVO", "20XW", {"svm"}, Platform.HARDWARE),
        ("", "", {"svm", "hypervisor"}, Platform.UNKNOWN),
    ],
)
def test_vendors_that_make_machines_are_not_taken_for_hypervisors(
    vendor: str, product: str, flags: set[str], platform: Platform
) -> None:
    assert platform_of(replace(INTEL, dmi_vendor=vendor, dmi_product=product, cpu_flags=frozenset(flags))) is platform


def test_firmware_that_hides_the_extension_is_named() -> None:
    facts = replace(INTEL, cpu_flags=frozenset({"sse2"}), modules=frozenset({"kvm"}), device=Device.ABSENT)
    assert "firmware" in advice(replace(facts, proof=KvmProof(works=None)))


@pytest.mark.parametrize(("flag", "module"), [("vmx", "kvm_intel"), ("svm", "kvm_amd")])
def test_a_missing_module_is_named_for_the_processor(flag: str, module: str) -> None:
    facts = replace(INTEL, cpu_flags=frozenset({flag}), modules=frozenset(), device=Device.ABSENT)
    assert f"sudo modprobe {module}" in advice(replace(facts, proof=KvmProof(works=None)))


def test_modules_that_are_built_in_are_not_asked_for() -> None:
    assert "modprobe" not in advice(replace(INTEL, modules=frozenset()))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (replace(INTEL, device=Device.DENIED), "sudo usermod -aG kvm $USER"),
        (replace(INTEL, device=Device.DENIED, is_member_after_login=True), "log in again"),
        (replace(INTEL, device=Device.DENIED, device_group="root"), "udevadm trigger"),
        (replace(INTEL, device=Device.DENIED, is_container=True), "--group-add"),
        (replace(INTEL, device=Device.ABSENT, is_container=True), "--device /dev/kvm"),
    ],
)
def test_a_device_that_may_not_be_opened_says_how_it_may(facts: HostFacts, words: str) -> None:
    facts = replace(facts, proof=KvmProof(works=None))
    assert judge(facts).kvm is (Kvm.NONE if facts.device is Device.ABSENT else Kvm.BROKEN)
    assert words in advice(facts)


def test_a_device_that_answers_wrongly_is_quoted() -> None:
    facts = replace(INTEL, device=Device.FAILS, device_detail="answers with version 11", proof=KvmProof(works=None))
    verdict = judge(facts)
    assert verdict.kvm is Kvm.BROKEN
    assert "version 11" in verdict.findings[-1].detail


def test_nested_matters_to_hardware_only() -> None:
    assert "options kvm_intel nested=1" in advice(replace(INTEL, is_nested_on=False))
    inside = replace(INTEL, is_nested_on=False, dmi_vendor="VMware, Inc.", cpu_flags=GUEST | {"vmx"})
    assert advice(inside) == ""


def test_an_arm_machine_is_told_that_the_images_are_not_for_it() -> None:
    facts = replace(INTEL, machine="aarch64", cpu_flags=frozenset({"asimd"}))
    assert judge(facts).kvm is Kvm.WORKS
    assert level_of(facts, "processor") is Level.NOTE


def test_a_mac_is_told_where_kvm_can_be() -> None:
    mac = HostFacts(system="darwin", machine="x86_64", cpu_flags=frozenset({"vmx"}))
    assert judge(mac).kvm is Kvm.NONE
    assert "Ubuntu VM" in advice(mac)
    assert "Apple silicon" in judge(replace(mac, machine="arm64", cpu_flags=frozenset())).findings[-1].detail


def test_flags_are_read() -> None:
    assert cpu_flags("processor\t: 0\nflags\t\t: fpu vmx\n\nprocessor\t: 1\nflags\t\t: fpu\n") == {"fpu", "vmx"}
    assert cpu_flags("processor : 0\nFeatures : fp asimd\n") == {"fp", "asimd"}
    assert cpu_flags("") == frozenset()
    assert mac_flags({"machdep.cpu.features": "FPU VMX", "kern.hv_vmm_present": "1"}) == {"vmx", "hypervisor"}
