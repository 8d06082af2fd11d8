"""Settings of an xvfb desktop."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from osworld_contract.names import SCREEN_HEIGHT_PX, SCREEN_WIDTH_PX
from osworld_contract.places import run_dir

HOST_UID: Final = 61000
"""User on the host as whom desktops of a root-owned env server run. Debian gives 60000 to 64999 to nobody by itself.

Source: Debian policy, 9.2.2 "UID and GID classes" (60000-64999 are allocated on demand only).
"""

MIB: Final = 1024 * 1024


@dataclass(frozen=True)
class XvfbSettings:
    """What an xvfb desktop is made of."""

    run_dir: Path = field(default_factory=run_dir)
    """Where its sockets and logs are, in a folder of its own that only the env server can enter."""

    host: str = "127.0.0.1"
    """Address on which the task worker reaches the guest's ports."""

    host_uid: int = HOST_UID
    """User and group on the host that the desktop's processes run as, where the env server is root; else its own."""

    screen_width_px: int = SCREEN_WIDTH_PX
    screen_height_px: int = SCREEN_HEIGHT_PX

    call_pause_s: float = 0.0
    """Pause after each call of an action. The env server has a pause of its own after each step."""

    spares: int = 1
    """Desktops that wait, booted and drawn, for the next revert (0 or 1). One makes a revert a swap; it costs some
    160 MiB of memory."""

    home_size_mib: int = 4096
    """Limit of the home, which is in memory: a desktop can fill its own home, never the host's disk."""

    tmp_size_mib: int = 2048
    """Limit of /tmp, as above."""

    control: Path | None = None
    """Folder in which the desktop's container is met (`osworld_contract.desktop_control`). None: sandboxes of this
    machine."""

    guarded: tuple[str, int] | None = None
    """Address that this env server listens on with ``SO_REUSEPORT``: a container's desktop shares its network."""

    first_container_deadline_s: float = 600.0
    """For the desktop's container to come for the first time. A guess: its image may have to be pulled."""

    container_deadline_s: float = 90.0
    """For one that ended to come again. A guess: a container that ends often is started again ever later."""

    start_deadline_s: float = 60.0
    """For a start. A guess with room: 2 s on an idle machine with two cores."""
