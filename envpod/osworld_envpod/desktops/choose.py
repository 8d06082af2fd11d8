"""The desktop of a provider's name. The only module that knows all providers."""

from osworld_envpod.desktops.base import Desktop
from osworld_envpod.images import FetchLimits, ImageRequest, S3Access, Show, parse_address
from osworld_envpod.settings import EnvServerSettings, Provider
from osworld_envpod.tasks.settings import worker_python


def desktop_for(settings: EnvServerSettings, show_image: Show) -> Desktop:
    """Return a desktop of the chosen provider, not started. `show_image` is told of an image that is fetched for it."""
    if settings.provider is Provider.QEMU:
        return _qemu(settings, show_image)
    if settings.provider is Provider.DOCKER:
        return _docker(settings, show_image)
    if settings.provider is Provider.AWS:
        return _aws(settings)
    if settings.provider is Provider.VMWARE:
        return _vmware(settings)
    assert settings.provider is Provider.XVFB  # the settings accept no other one
    from osworld_envpod.desktops.xvfb import XvfbDesktop, XvfbSettings  # noqa: PLC0415 - only the chosen provider's needs

    control = settings.desktop_control
    guarded = (settings.host, settings.port) if control else None
    return XvfbDesktop(XvfbSettings(spares=settings.spare_desktops, control=control, guarded=guarded))


def _qemu(settings: EnvServerSettings, show_image: Show) -> Desktop:
    from osworld_envpod.desktops.qemu import QemuDesktop, QemuSettings  # noqa: PLC0415 - as above
    from osworld_envpod.desktops.qemu.settings import Accelerator, Firmware  # noqa: PLC0415

    return QemuDesktop(
        QemuSettings(
            image=_image(settings.qemu_image, settings),
            show_image=show_image,
            accelerator=Accelerator(settings.qemu_accelerator),
            cpus=settings.qemu_cpus,
            memory_mib=settings.qemu_memory_mib,
            firmware=Firmware(settings.qemu_firmware),
            password=settings.guest_password.get_secret_value(),
            boot_deadline_s=settings.boot_timeout_s,
            spares=settings.spare_desktops,
            templates_max=settings.templates_max,
            templates_max_bytes=settings.templates_max_bytes,
            task_snapshots=settings.task_snapshots and settings.task_snapshots_max > 0,
            snapshots_max=settings.task_snapshots_max,
            snapshots_max_bytes=settings.task_snapshots_max_bytes,
        )
    )


def _docker(settings: EnvServerSettings, show_image: Show) -> Desktop:
    from osworld_envpod.desktops.osworld import BootedDesktop  # noqa: PLC0415 - as above
    from osworld_envpod.desktops.osworld.docker import DockerBooter, DockerSettings  # noqa: PLC0415

    booter = DockerBooter(
        DockerSettings(
            image=settings.docker_image,
            disk=_image(settings.docker_disk, settings),
            show_image=show_image,
            accelerator=settings.qemu_accelerator,
            cpus=settings.docker_cpus,
            memory_mib=settings.docker_memory_mib,
            disk_gib=settings.docker_disk_gib,
            boot_deadline_s=settings.boot_timeout_s,
        )
    )
    return BootedDesktop(booter, settings.spare_desktops, password=settings.guest_password.get_secret_value())


def _aws(settings: EnvServerSettings) -> Desktop:
    from osworld_envpod.desktops.osworld import BootedDesktop  # noqa: PLC0415 - as above
    from osworld_envpod.desktops.osworld.aws import AwsBooter, AwsSettings  # noqa: PLC0415

    booter = AwsBooter(
        AwsSettings(
            region=settings.aws_region,
            subnet_id=settings.aws_subnet_id,
            security_group_id=settings.aws_security_group_id,
            credentials=settings.aws_credentials,
            instance_type=settings.aws_instance_type,
            ami=settings.aws_ami,
            pool=settings.pool,
            boot_deadline_s=settings.boot_timeout_s,
        )
    )
    return BootedDesktop(booter, settings.spare_desktops)


def _vmware(settings: EnvServerSettings) -> Desktop:
    from osworld_envpod.desktops.osworld import BootedDesktop  # noqa: PLC0415 - as above
    from osworld_envpod.desktops.osworld.vmware import VmwareBooter, VmwareSettings  # noqa: PLC0415

    booter = VmwareBooter(
        VmwareSettings(
            vm=settings.vmware_vm,
            snapshot=settings.vmware_snapshot,
            headless=settings.vmware_headless,
            password=settings.guest_password.get_secret_value(),
            boot_deadline_s=settings.boot_timeout_s,
        )
    )
    return BootedDesktop(booter, settings.spare_desktops, password=settings.guest_password.get_secret_value())


def _image(address: str | None, settings: EnvServerSettings) -> ImageRequest | None:
    if address is None:
        return None
    limits = FetchLimits(total_s=settings.image_timeout_s, stall_s=settings.image_stall_timeout_s)
    s3 = S3Access(worker_python(), settings.aws_region, settings.aws_credentials)
    return ImageRequest(parse_address(address), settings.image_sha256, limits=limits, s3=s3)
