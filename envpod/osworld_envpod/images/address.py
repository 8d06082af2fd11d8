"""Where an image is: the text of a setting, parsed. Pure; nothing is opened here."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class FileAddress:
    """A folder, a disk or a zip on this machine."""

    path: Path

    @property
    def shown(self) -> str:
        """Return the address for logs and faults."""
        return str(self.path)


@dataclass(frozen=True)
class HttpAddress:
    """A file behind an HTTP server."""

    url: str

    @property
    def shown(self) -> str:
        """Return the address for logs and faults, without user info and query: both can be secrets."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


Address: TypeAlias = FileAddress | HttpAddress


def parse_address(text: str) -> Address:
    """Return the address that `text` means: ``http://``, ``https://``, ``file:``, or a path.

    Raises:
        ValueError: It is none of these.
    """
    scheme, separator, rest = text.partition(":")
    if not separator or "/" in scheme:
        return FileAddress(Path(text))
    match scheme.lower():
        case "http" | "https":
            return _http(text)
        case "file":
            return _file(rest)
    raise ValueError(f"{scheme}: is no kind of address that is known here: file, http, https, or a path")


def _http(text: str) -> HttpAddress:
    if not text.isprintable() or " " in text:
        raise ValueError("an http address has neither spaces nor control characters")
    parts = urlsplit(text)
    if parts.port == 0 or not parts.hostname or not parts.path.strip("/"):
        raise ValueError("an http address names a host and a path")
    return HttpAddress(parts._replace(fragment="").geturl())


def _file(rest: str) -> FileAddress:
    path = rest
    if rest.startswith("//"):
        host, _, tail = rest[2:].partition("/")
        if host not in {"", "localhost"}:
            raise ValueError(f"a file address is on this machine, not on {host}")
        path = f"/{tail}"
    if not path.startswith("/"):
        raise ValueError("a file address has an absolute path")
    return FileAddress(Path(unquote(path)))
