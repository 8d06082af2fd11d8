"""Where an image is: the text of a setting, parsed. Pure; nothing is opened here."""

import re
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


@dataclass(frozen=True)
class S3Address:
    """An object in S3, or in a store of that kind."""

    bucket: str
    key: str

    @property
    def shown(self) -> str:
        """Return the address for logs and faults."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class OciAddress:
    """An artifact in an OCI registry."""

    registry: str
    """Host, and port where it is not the usual one."""
    repository: str
    reference: str
    """Tag or digest."""

    @property
    def shown(self) -> str:
        """Return the address for logs and faults."""
        separator = "@" if ":" in self.reference else ":"
        return f"oci://{self.registry}/{self.repository}{separator}{self.reference}"


Address: TypeAlias = FileAddress | HttpAddress | S3Address | OciAddress

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
"""Source: S3's rules for names of buckets."""

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_REFERENCE = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}|sha256:[0-9a-f]{64}")
_REGISTRY = re.compile(r"[a-zA-Z0-9.-]+(?::[0-9]{1,5})?")
"""Source of these three: OCI distribution specification 1.1, "Pulling manifests"."""


def parse_address(text: str) -> Address:
    """Return the address that `text` means: ``http://``, ``https://``, ``s3://``, ``oci://``, ``file:``, or a path.

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
        case "s3":
            return _s3(rest)
        case "oci":
            return _oci(rest)
    raise ValueError(f"{scheme}: is no kind of address that is known here: file, http, https, s3, oci, or a path")


def _http(text: str) -> HttpAddress:
    if not text.isprintable() or " " in text:
        raise ValueError("an http address has neither spaces nor control characters")
    parts = urlsplit(text)
    if parts.port == 0 or not parts.hostname or not parts.path.strip("/"):
        raise ValueError("an http address names a host and a path")
    return HttpAddress(parts._replace(fragment="").geturl())


def _s3(rest: str) -> S3Address:
    bucket, _, key = rest.removeprefix("//").partition("/")
    if not rest.startswith("//") or not _BUCKET.fullmatch(bucket) or not key or not key.isprintable():
        raise ValueError("an s3 address is s3://BUCKET/KEY")
    return S3Address(bucket, key)


def _oci(rest: str) -> OciAddress:
    registry, _, name = rest.removeprefix("//").partition("/")
    if "@" in name:
        repository, _, reference = name.partition("@")
        repository = repository.rpartition(":")[0] or repository  # a tag beside a digest says nothing
    else:
        repository, _, reference = name.partition(":")
        reference = reference or "latest"
    is_sound = _REPOSITORY.fullmatch(repository) and _REFERENCE.fullmatch(reference)
    if not rest.startswith("//") or not _REGISTRY.fullmatch(registry) or not is_sound:
        raise ValueError("an oci address is oci://REGISTRY/REPOSITORY:TAG or oci://REGISTRY/REPOSITORY@sha256:DIGEST")
    return OciAddress(registry, repository, reference)


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
