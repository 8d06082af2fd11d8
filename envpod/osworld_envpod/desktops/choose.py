"""The desktop of a provider's name. The only module that knows all providers."""

from osworld_envpod.desktops.base import Desktop
from osworld_envpod.images import FetchLimits, ImageRequest, Show, parse_address
from osworld_envpod.settings import EnvServerSettings, Provider


def desktop_for(settings: EnvServerSettings, show_image: Show) -> Desktop:
    """Return a desktop of the chosen provider, not started. `show_image` is told of an image that is fetched for it."""
    if settings.provider is Provider.QEMU:
        return _qemu(settings, show_image)
    assert settings.provider is Provider.XVFB  # the settings accept no other one
    from osworld_envpod.desktops.xvfb import XvfbDesktop, XvfbSettings  # noqa: PLC0415 - only the chosen provider's needs

    control = settings.desktop_control
    guarded = (settings.host, settings.port) if control else None
    return XvfbDesktop(XvfbSettings(spares=settings.spare_desktops, control=control, guarded=guarded))


def _qemu(settings: EnvServerSettings, show_image: Show) -> Desktop:
    from osworld_envpod.desktops.qemu import QemuDesktop, QemuSettings  # noqa: PLC0415 - as above
    from osworld_envpod.desktops.qemu.settings import Accelerator  # noqa: PLC0415

    image = None
    if settings.qemu_image is not None:
        limits = FetchLimits(total_s=settings.image_timeout_s, stall_s=settings.image_stall_timeout_s)
        image = ImageRequest(parse_address(settings.qemu_image), settings.image_sha256, limits=limits)
    return QemuDesktop(
        QemuSettings(
            image=image,
            show_image=show_image,
            accelerator=Accelerator(settings.qemu_accelerator),
            cpus=settings.qemu_cpus,
            memory_mib=settings.qemu_memory_mib,
            spares=settings.spare_desktops,
        )
    )
