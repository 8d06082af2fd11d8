"""From settings to the command line of one sandbox. Pure: touches neither files nor processes.

What the desktop can see is listed here, and nothing else exists in it: no part of the host's root but /usr, and files
of /etc by name. Its home, /tmp and /run are empty and in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osworld_contract.names import GUEST_CHROMIUM_PORT, GUEST_HOME, GUEST_HOSTNAME, GUEST_VLC_PORT
from osworld_envpod.desktops.xvfb.settings import MIB, XvfbSettings

GUEST_ROOT: Final = "/opt/osworld"
GUEST_UID: Final = 1000
SHM_SIZE_MIB: Final = 1024
RUN_SIZE_MIB: Final = 256

ETC_FILES: Final = (
    "ImageMagick-6", "ImageMagick-7", "X11", "alternatives", "bash.bashrc", "bash_completion.d", "chromium",
    "chromium.d", "dconf", "debian_version", "drirc", "firefox", "fonts", "gimp", "glvnd", "groff", "gtk-2.0",
    "gtk-3.0", "gtk-4.0", "inputrc", "java-17-openjdk", "java-21-openjdk", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
    "libpaper.d", "libreoffice", "locale.alias", "localtime", "lsb-release", "magic", "magic.mime", "mailcap",
    "mime.types", "networks", "openal", "os-release", "papersize", "perl", "profile", "protocols", "pulse", "python3",
    "services", "shells", "ssl/certs", "ssl/openssl.cnf", "terminfo", "thunderbird", "timezone", "vim", "vlc",
    "vulkan", "xdg",
)  # fmt: skip
"""Files and folders of /etc that programs need and that hold no secret. Those that are not there are left out."""

OWN_ETC_FILES: Final = ("passwd", "group", "hosts", "hostname", "nsswitch.conf", "machine-id")
"""Files of /etc that are ours, from the guest runtime."""

OTHER_READ_ONLY: Final = ("/opt/google", "/var/cache/fontconfig", "/var/lib/dictionaries-common")
USR_LINKS: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
SUDO: Final = Path("/usr/bin/sudo")
CHROMIUM_FOLDER: Final = "/usr/lib/chromium"
CHROMIUM_PROGRAM: Final = "chromium"
CHROME_FOLDER: Final = "/opt/chromium"
NPROC_MAX: Final = 16384
"""Threads of one user. A guess with room: a desktop with a browser and an office has some 500. Stops fork bombs."""


@dataclass(frozen=True)
class SandboxPlan:
    """What one sandbox is started with."""

    venv: Path
    code: Path
    boot_id: str
    agent_fd: int
    chromium_fd: int
    vlc_fd: int
    status_fd: int
    """Where bwrap writes the process id of the sandbox's PID 1."""


@dataclass(frozen=True)
class HostFacts:
    """What the command line depends on beside settings and plan."""

    is_root: bool
    root_folders: dict[str, str | None]
    """``bin``, ``lib`` and so on: the target where it is a link into /usr, None where it is a folder."""
    has_sudo: bool
    can_disable_userns: bool
    nproc_max: int
    chromium_files: tuple[str, ...] = ()
    """What lies beside Chromium's program; empty where Chromium is not installed."""


def host_argv(host_uid: int, facts: HostFacts) -> list[str]:
    """Return what comes before bwrap: limits and, as root, the change to the unprivileged user.

    With `--unshare-user` alone a sandbox of root's still reads root's files.
    """
    limits = ["prlimit", f"--nproc={facts.nproc_max}", "--core=0"]
    if not facts.is_root:
        return limits
    user = str(host_uid)
    return [
        *limits,
        "setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
        "--no-new-privs",
    ]  # fmt: skip


def isolation_argv(facts: HostFacts) -> list[str]:
    """Return bwrap with every namespace of its own, and no way to gain anything back."""
    argv = [
        "bwrap", "--unshare-user", "--uid", str(GUEST_UID), "--gid", str(GUEST_UID), "--unshare-pid", "--unshare-net",
        "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", GUEST_HOSTNAME, "--die-with-parent",
        "--new-session", "--clearenv", "--cap-drop", "ALL",
    ]  # fmt: skip
    return [*argv, "--disable-userns"] if facts.can_disable_userns else argv


def system_argv(facts: HostFacts) -> list[str]:
    """Return the binds of the operating system's programs: /usr, and the folders of / that lead there."""
    argv = ["--ro-bind", "/usr", "/usr"]
    for name, target in facts.root_folders.items():
        argv += ["--symlink", target, f"/{name}"] if target else ["--ro-bind", f"/{name}", f"/{name}"]
    return argv


def sandbox_argv(settings: XvfbSettings, plan: SandboxPlan, facts: HostFacts) -> list[str]:
    """Return the whole command line of a sandbox, whose PID 1 is the session."""
    return [
        *host_argv(settings.host_uid, facts),
        *isolation_argv(facts),
        *system_argv(facts),
        *_file_argv(settings, plan, facts),
        "--json-status-fd", str(plan.status_fd),
        "--as-pid-1",
        "--setenv", "LANG", "C.UTF-8",
        "--chdir", "/",
        "--",
        # -I would drop the .pth file's folder; -s keeps only packages of the user's home out.
        f"{GUEST_ROOT}/bin/python", "-s", "-m", "osworld_guest.session",
        *session_options(settings, plan.boot_id, (plan.agent_fd, plan.chromium_fd, plan.vlc_fd)),
    ]  # fmt: skip


def _file_argv(settings: XvfbSettings, plan: SandboxPlan, facts: HostFacts) -> list[str]:
    argv = ["--proc", "/proc", "--dev", "/dev", *_tmpfs("/dev/shm", SHM_SIZE_MIB)]  # noqa: S108
    argv += [*_tmpfs("/tmp", settings.tmp_size_mib), *_tmpfs("/run", RUN_SIZE_MIB)]  # noqa: S108
    argv += ["--dir", "/var/tmp", "--symlink", "/run", "/var/run", "--dir", "/mnt", "--dir", "/media"]  # noqa: S108
    argv += _tmpfs(GUEST_HOME, settings.home_size_mib)
    for name in ETC_FILES:
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name in OWN_ETC_FILES:
        argv += ["--ro-bind", str(plan.code / "etc" / name), f"/etc/{name}"]
    for path in OTHER_READ_ONLY:
        argv += ["--ro-bind-try", path, path]
    argv += ["--ro-bind", str(plan.venv), GUEST_ROOT, "--ro-bind", str(plan.code), f"{GUEST_ROOT}/code"]
    argv += _chrome_argv(facts.chromium_files)
    if facts.has_sudo:
        shim = plan.code / "osworld_guest" / "data" / "bin" / "sudo"
        argv += ["--ro-bind", str(shim), str(SUDO)]
    return argv


def _chrome_argv(chromium_files: tuple[str, ...]) -> list[str]:
    """Show Chromium under Chrome's name: it starts itself anew by its own path, and `pkill chrome` has to find it."""
    argv = []
    for name in chromium_files:
        source = f"{CHROMIUM_FOLDER}/{name}"
        if name == CHROMIUM_PROGRAM:
            argv += ["--ro-bind", source, f"{CHROME_FOLDER}/chrome"]
        else:
            argv += ["--symlink", source, f"{CHROME_FOLDER}/{name}"]
    return argv


def _tmpfs(path: str, size_mib: int) -> list[str]:
    return ["--size", str(size_mib * MIB), "--tmpfs", path]


def session_options(settings: XvfbSettings, boot_id: str, fds: Sequence[int]) -> list[str]:
    """Return the session's options; `fds` are those of agent, chromium and vlc, as the session has them."""
    agent_fd, chromium_fd, vlc_fd = fds
    return [
        "--boot-id", boot_id,
        "--screen", f"{settings.screen_width_px}x{settings.screen_height_px}",
        "--call-pause-s", str(settings.call_pause_s),
        "--listen", f"fd:{agent_fd}",
        "--relay", f"fd:{chromium_fd}={GUEST_CHROMIUM_PORT}",
        "--relay", f"fd:{vlc_fd}={GUEST_VLC_PORT}",
    ]  # fmt: skip
