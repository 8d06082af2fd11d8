"""Volumes of env pods and where they are mounted. Pure."""

from typing import Any, Final

from osworld_contract.crd import Cache, OSWorldEnvSpec
from osworld_contract.desktop_control import CONTROL_FOLDER
from osworld_contract.names import GUEST_HOME
from osworld_contract.places import SYSTEM_CACHE

CACHE: Final = "cache"
RUN: Final = "run"
TMP: Final = "tmp"
CONTROL: Final = "desktop-control"

SHARED: Final = f"{SYSTEM_CACHE}/shared"
"""Where the cache is mounted, whole. Not its folders one by one: those that were missing the kubelet would make for
root alone, in a folder of the node. The container image's own are beside it."""

TMP_SIZE: Final = "2Gi"

DESKTOP_FOLDERS: Final = {
    "home": (GUEST_HOME, "4Gi"),
    "tmp": ("/tmp", "2Gi"),  # noqa: S108 - a desktop's own
    "run": ("/run", "256Mi"),
    "var-tmp": ("/var/tmp", "256Mi"),  # noqa: S108 - as above
    "shm": ("/dev/shm", "1Gi"),  # noqa: S108 - as above
}
"""Folders of an xvfb desktop that can be written, in memory, and emptied at each reset: name, place, size."""


def server_volumes(spec: OSWorldEnvSpec) -> list[dict[str, Any]]:
    """Return the volumes that the container ``server`` mounts."""
    return [
        {"name": CACHE, **_cache(spec.cache)},
        {"name": RUN, "emptyDir": {"sizeLimit": str(spec.desktop.disk)}},
        {"name": TMP, "emptyDir": {"sizeLimit": TMP_SIZE}},
        *({"name": f"extra-{volume.name}", **volume.source} for volume in spec.pod_template.volumes),
    ]


def server_mounts(spec: OSWorldEnvSpec) -> list[dict[str, Any]]:
    """Return the mounts of the container ``server``."""
    return [
        {"name": CACHE, "mountPath": SHARED},
        {"name": RUN, "mountPath": f"{SYSTEM_CACHE}/run"},
        {"name": TMP, "mountPath": "/tmp"},  # noqa: S108 - a volume of its own
        *(
            {"name": f"extra-{volume.name}", "mountPath": volume.mount_path, "readOnly": volume.read_only}
            for volume in spec.pod_template.volumes
        ),
    ]


def desktop_volumes() -> list[dict[str, Any]]:
    """Return the volumes that an xvfb pod has beside the server's."""
    folders = [
        {"name": f"desktop-{name}", "emptyDir": {"medium": "Memory", "sizeLimit": size}}
        for name, (_, size) in DESKTOP_FOLDERS.items()
    ]
    return [{"name": CONTROL, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, *folders]


def desktop_mounts() -> list[dict[str, Any]]:
    """Return the mounts of the container ``desktop``."""
    folders = [{"name": f"desktop-{name}", "mountPath": path} for name, (path, _) in DESKTOP_FOLDERS.items()]
    return [*folders, {"name": CONTROL, "mountPath": CONTROL_FOLDER, "readOnly": True}]


def control_mount() -> dict[str, Any]:
    """Return the mount of the control socket's folder in the container ``server``, which makes the socket."""
    return {"name": CONTROL, "mountPath": CONTROL_FOLDER}


def _cache(cache: Cache) -> dict[str, Any]:
    if cache.host_path is not None:
        return {"hostPath": {"path": cache.host_path.path, "type": "DirectoryOrCreate"}}
    if cache.persistent_volume_claim is not None:
        return {"persistentVolumeClaim": {"claimName": cache.persistent_volume_claim.claim_name}}
    size = cache.empty_dir.size_limit if cache.empty_dir else None
    return {"emptyDir": {"sizeLimit": str(size)} if size else {}}
