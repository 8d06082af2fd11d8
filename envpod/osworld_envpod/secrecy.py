"""What keeps an env server's secrets from other processes of its user, as a pod's task worker is one.

Such a process may read ``/proc/<pid>/environ``, look into the memory, or attach as a debugger, unless the process has
said that it is not dumpable. The environment it was started with stays in its memory whatever ``os.environ`` holds, and
is what every child would inherit: so it is overwritten there, and taken out of ``os.environ``.

Until this has run, in the first tenths of a second, the environment is open; the worker is started after it.
"""

import ctypes
import logging
import os
import sys
from typing import Final

from osworld_contract.settings import ENV_PREFIX
from osworld_contract.task_secrets import TASK_SECRETS

logger = logging.getLogger(__name__)

_PR_SET_DUMPABLE: Final = 4
"""Source: prctl(2)."""
SECRET_VARIABLES: Final = (
    f"{ENV_PREFIX}TOKEN", f"{ENV_PREFIX}GUEST_PASSWORD", *TASK_SECRETS.values(), "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)  # fmt: skip
"""What `osworld_envpod.settings` has read by then, and no child may inherit."""


def keep_secrets() -> None:
    """Close this process to others of its user, and forget the variables that are secrets. Can run twice.

    Call it after the settings are read, and before anything is started.
    """
    if sys.platform != "linux":  # no other system has pods; there the sandbox keeps the worker away
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        logger.warning("Other processes of this user can look into this one: %s", os.strerror(ctypes.get_errno()))
    libc.getenv.restype = ctypes.c_void_p
    for name in SECRET_VARIABLES:
        if (address := libc.getenv(name.encode())) is not None:
            ctypes.memset(address, 0, len(ctypes.string_at(address)))
        os.environ.pop(name, None)
