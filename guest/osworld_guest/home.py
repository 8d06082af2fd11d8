"""What a desktop's user finds at its start: the home from the skeleton, and programs under the names that tasks use.

Only the standard library is imported: `osworld_guest.session` runs this on the way of every start.
"""

import os
import shutil
import stat
from pathlib import Path

from osworld_guest import layout


def fill_home() -> None:
    """Copy the skeleton into the home, which is empty, and make the other folders that programs look for."""
    for path in layout.SKELETON.iterdir():
        if path.is_dir():
            shutil.copytree(path, layout.HOME / path.name, dirs_exist_ok=True, symlinks=True)
        else:
            shutil.copy2(path, layout.HOME / path.name)
    for name in layout.HOME_FOLDERS:
        (layout.HOME / name).mkdir(exist_ok=True)
    for path in [layout.HOME, *layout.HOME.rglob("*")]:
        if path.stat().st_uid == os.getuid():  # in a pod the home itself is a volume, and the node's
            path.chmod(0o755 if path.is_dir() else 0o644)
    layout.RUNTIME_DIR.mkdir(parents=True, exist_ok=True, mode=0o700)
    layout.RUNTIME_DIR.chmod(0o700)
    for name in (".X11-unix", ".ICE-unix"):
        folder = Path("/tmp", name)  # noqa: S108 - the X server's own fixed path
        folder.mkdir(exist_ok=True)
        folder.chmod(0o1777)


def has_real_sudo() -> bool:
    """Return whether ``sudo`` can gain root's rights here, as it can in a virtual machine and never in a sandbox."""
    try:
        is_root_s = bool(Path("/usr/bin/sudo").stat().st_mode & stat.S_ISUID)
    except FileNotFoundError:
        return False
    return is_root_s and "NoNewPrivs:\t1" not in Path("/proc/self/status").read_text()


def link_programs() -> None:
    """Make the Ubuntu names of programs that are installed under another name, and no others."""
    layout.PROGRAM_LINKS.mkdir(parents=True, exist_ok=True)
    scripts = layout.DATA / "bin"
    links = {} if has_real_sudo() else {"sudo": scripts / "sudo"}
    if any(os.access(path, os.X_OK) for path in ("/opt/google/chrome/chrome", "/opt/chromium/chrome")):
        links |= dict.fromkeys(("google-chrome", "google-chrome-stable", "chromium-browser"), scripts / "google-chrome")
    for name in ("nautilus", "gnome-screenshot"):
        if not shutil.which(name, path="/usr/bin"):
            links[name] = scripts / name
    for name, target in links.items():
        (layout.PROGRAM_LINKS / name).symlink_to(target)
