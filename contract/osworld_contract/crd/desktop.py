"""``spec.desktop``: what each env of a pool is."""

from enum import StrEnum
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, StringConstraints

from osworld_contract.crd.base import CrdModel, Rule
from osworld_contract.crd.values import Quantity
from osworld_contract.names import SCREEN_HEIGHT_PX, SCREEN_WIDTH_PX

ResourceName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253)
]
"""The name of a Secret, claim or class. Source: Kubernetes, "DNS Subdomain Names"."""

SecretKey = Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", min_length=1, max_length=253)]

MEMORY_MIN: Final = Quantity("512Mi")
SCREEN: Final = f"{SCREEN_WIDTH_PX}x{SCREEN_HEIGHT_PX}"


class Provider(StrEnum):
    """What a desktop is made of."""

    QEMU = "qemu"
    XVFB = "xvfb"


class Accelerator(StrEnum):
    """What runs a virtual machine's instructions."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class SecretKeyRef(CrdModel):
    """A key of a Secret in the pool's namespace."""

    name: ResourceName
    """Name of the Secret."""
    key: SecretKey
    """Key in the Secret."""


class SecretRef(CrdModel):
    """A Secret in the pool's namespace."""

    name: ResourceName
    """Name of the Secret."""


class Password(CrdModel):
    """The password of the guest's user."""

    secret_ref: SecretKeyRef
    """Where it is kept."""


class Image(CrdModel):
    """A virtual machine's disk, kernel and initrd."""

    url: Annotated[str, StringConstraints(pattern=r"^(https?://|s3://|oci://|file:|/).+$", max_length=2048)]
    """Address of a file or zip (http, https, s3, oci), or an absolute path in the env pod."""
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$", max_length=64)] | None = None
    """SHA-256 of the file at the address. Without it the file is taken as it comes."""


class Desktop(CrdModel):
    """The desktop of each env."""

    provider: Provider
    """qemu: a virtual machine, forked at each reset. xvfb: an X desktop in a container of its own, no KVM needed."""
    image: Image | None = None
    """The virtual machine's image; qemu needs one, xvfb has none."""
    cpus: Annotated[int, Field(ge=1, le=64)] = 4
    """Processors of the desktop."""
    memory: Quantity = Quantity("4Gi")
    """Memory of the desktop. The pod asks for more, for env server and task worker."""
    disk: Quantity = Quantity("32Gi")
    """Space that an env may use on the node's disk: what its virtual machine writes, files of tasks."""
    screen: Literal["1920x1080"] = SCREEN  # type: ignore[assignment]  # made of numbers; a test holds both together
    """Width and height in pixels. The trainer's prompts and OSWorld's tasks are made for this one."""
    accelerator: Accelerator = Accelerator.AUTO
    """kvm: the node's device or nothing. auto: the device, and emulation on a node where it does not really work. tcg:
    emulation, some twenty times slower, needs no device. Means nothing to xvfb."""
    os_type: Literal["Ubuntu"] = "Ubuntu"
    """The guest's system, as OSWorld's tasks name it."""
    password: Password | None = None
    """Password of the guest's user, where it is not that of OSWorld's images."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            ".image",
            "self.provider != 'qemu' || has(self.image)",
            "provider qemu needs an image: set desktop.image.url",
            lambda desktop: desktop.provider is not Provider.QEMU or desktop.image is not None,
        ),
        Rule(
            ".image",
            "self.provider != 'xvfb' || !has(self.image)",
            "provider xvfb has no image: remove desktop.image",
            lambda desktop: desktop.provider is not Provider.XVFB or desktop.image is None,
        ),
        Rule(
            ".accelerator",
            "self.provider != 'xvfb' || self.accelerator != 'kvm'",
            "provider xvfb is no virtual machine: leave accelerator at auto",
            lambda desktop: desktop.provider is not Provider.XVFB or desktop.accelerator is not Accelerator.KVM,
        ),
        Rule(
            ".memory",
            f"quantity(self.memory).compareTo(quantity('{MEMORY_MIN}')) >= 0",
            f"memory must be at least {MEMORY_MIN}",
            lambda desktop: desktop.memory.value >= MEMORY_MIN.value,
        ),
        Rule(
            ".provider",
            "self.provider == oldSelf.provider",
            "provider cannot be changed: make another pool",
        ),
    )
