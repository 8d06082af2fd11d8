"""Faults of images. All are `FaultError`:

``image_unavailable``   it cannot be had now: server, network, deadline, credentials
``image_invalid``       it was had and is not what was asked for; trying again is no use
``disk_full``           there is no space to keep it
"""

import errno
from collections.abc import Mapping

from pydantic import JsonValue

from osworld_contract.faults import FaultError, FaultReason, fault_error

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def unavailable(message: str, evidence: Mapping[str, JsonValue] | None = None) -> FaultError:
    """Return the fault of an image that cannot be had now."""
    return fault_error(FaultReason.IMAGE_UNAVAILABLE, message, operation=None, **(evidence or {}))


def invalid(message: str) -> FaultError:
    """Return the fault of an image that is not what was asked for."""
    return fault_error(FaultReason.IMAGE_INVALID, message)


def no_space(shown: str, needed_bytes: int | None = None, free_bytes: int | None = None) -> FaultError:
    """Return the fault of a disk that cannot hold the image."""
    sizes = "" if needed_bytes is None else f": {needed_bytes} bytes are needed, {free_bytes} are free"
    return fault_error(FaultReason.DISK_FULL, f"no space is left for the image {shown}{sizes}")


def os_fault(error: OSError, shown: str) -> FaultError:
    """Return the fault for an error of this machine's file system."""
    if error.errno in NO_SPACE:
        return no_space(shown)
    where = f": {error.filename}" if error.filename else ""
    return unavailable(f"the image {shown} cannot be kept ({error.strerror or error}{where})")
