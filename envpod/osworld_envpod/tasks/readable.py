"""What of this machine evaluator code may read, whatever keeps it from the rest. Looks at the file system only."""

from pathlib import Path
from typing import Final

USR_LINKS: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Folders of the root that are links into /usr, or were before."""
ETC_FILES: Final = (
    "ImageMagick-6", "ImageMagick-7", "alternatives", "ca-certificates", "crypto-policies", "fonts", "gai.conf",
    "host.conf", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias", "localtime", "magic",
    "magic.mime", "mime.types", "nsswitch.conf", "os-release", "pki/ca-trust/extracted", "pki/tls/certs",
    "protocols", "resolv.conf", "services", "ssl/certs", "ssl/openssl.cnf", "timezone",
)  # fmt: skip
"""Files and folders of /etc that libraries read and that hold no secret. Those that are not there are left out."""
FONT_CACHE: Final = Path("/var/cache/fontconfig")


def environment_of(python: Path) -> Path | None:
    """Return the virtual environment of `python`; None where it is an interpreter outside of any."""
    folder = python.parent.parent
    return folder if (folder / "pyvenv.cfg").is_file() else None


def interpreter_folders(python: Path) -> list[Path]:
    """Return programs and libraries of the interpreter under `python`, as far as they are not in /usr.

    Not the whole prefix: it can be a person's home.
    """
    prefixes = [python.resolve().parent.parent]
    environment = environment_of(python)
    if environment is not None:
        for line in (environment / "pyvenv.cfg").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "home":
                # Also unresolved: a prefix may be reached by a link that the environment's own link goes through.
                prefixes += [Path(value.strip()).parent, Path(value.strip()).resolve().parent]
    return [
        folder
        for prefix in dict.fromkeys(prefixes)
        if prefix != Path("/") and not prefix.is_relative_to("/usr")
        for folder in (prefix / "bin", prefix / "lib")
        if folder.is_dir()
    ]
