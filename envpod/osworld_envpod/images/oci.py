"""An artifact in an OCI registry as the target of a download: the one blob in it that is a disk or a zip.

Source: OCI distribution specification 1.1 and image specification 1.1; Docker's token protocol.
"""

import base64
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from osworld_envpod.images.address import OciAddress
from osworld_envpod.images.errors import invalid, unavailable
from osworld_envpod.images.target import Target

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPTED: Final = ", ".join((MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST))
TITLE: Final = "org.opencontainers.image.title"
SUFFIXES: Final = (".qcow2", ".zip")
MANIFEST_MAX_BYTES: Final = 4 * 1024 * 1024
"""Source: the distribution specification asks registries to take at least that."""

CHALLENGE: Final = re.compile(r'(\w+)="([^"]*)"')
LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
"""Registries that are spoken to without TLS, as by Docker."""

TRANSIENT_FROM: Final = 500


class Descriptor(BaseModel):
    """A blob or manifest that is named by its content."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    digest: str = Field(pattern="^sha256:[0-9a-f]{64}$")
    media_type: str = Field(alias="mediaType")
    annotations: dict[str, str] = Field(default_factory=dict)
    platform: dict[str, Any] = Field(default_factory=dict)


class Manifest(BaseModel):
    """What a reference leads to: the parts of an artifact, or manifests for several platforms."""

    model_config = ConfigDict(extra="ignore")

    layers: list[Descriptor] = Field(default_factory=list)
    manifests: list[Descriptor] = Field(default_factory=list)


class OciSource:
    """Resolves one address. Tokens are asked for anew for each try: they live for minutes."""

    def __init__(self, address: OciAddress) -> None:
        self._address = address
        scheme = "http" if address.registry.rpartition(":")[0] in LOOPBACK or address.registry in LOOPBACK else "https"
        self._base = f"{scheme}://{address.registry}/v2/{address.repository}"

    async def resolve(self, client: httpx.AsyncClient) -> Target:
        """Return where the artifact's disk is, and which hash it has.

        Raises:
            FaultError: ``image_unavailable`` or ``image_invalid``.
            httpx.RequestError: The registry cannot be reached; another try may.
        """
        headers: dict[str, str] = {}
        manifest = await self._manifest(client, self._address.reference, headers)
        if manifest.manifests:
            manifest = await self._manifest(client, self._of_this_machine(manifest).digest, headers)
        blob = self._disk_of(manifest)
        return Target(f"{self._base}/blobs/{blob.digest}", headers, blob.digest.removeprefix("sha256:"))

    async def _manifest(self, client: httpx.AsyncClient, reference: str, headers: dict[str, str]) -> Manifest:
        """Return the manifest; `headers` has what the registry wanted for it afterwards."""
        url = f"{self._base}/manifests/{reference}"
        reply = await client.get(url, headers={"Accept": ACCEPTED} | headers)
        if reply.status_code == httpx.codes.UNAUTHORIZED and not headers:
            headers |= await self._admission(client, reply.headers.get("WWW-Authenticate", ""))
            reply = await client.get(url, headers={"Accept": ACCEPTED} | headers)
        self._refuse(reply)
        try:
            return Manifest.model_validate_json(reply.content[:MANIFEST_MAX_BYTES])
        except ValidationError as error:
            raise invalid(
                f"the manifest of {self._address.shown} cannot be read: {error.error_count()} errors"
            ) from error

    def _refuse(self, reply: httpx.Response) -> None:
        if reply.is_success:
            return
        status, host = reply.status_code, self._address.registry
        if status >= TRANSIENT_FROM or status == httpx.codes.TOO_MANY_REQUESTS:
            raise httpx.ReadError(f"{host} answered {status}", request=reply.request)
        as_whom = "" if _auth_of(host) else f"; {_config_path()} has no credentials for {host}"
        words = {401: f"asks for credentials{as_whom}", 403: f"forbids it{as_whom}", 404: "does not have it"}
        said = words.get(status, "refuses it")
        raise unavailable(
            f"the image {self._address.shown} cannot be had: {host} {said} ({status})", {"status": status}
        )

    async def _admission(self, client: httpx.AsyncClient, challenge: str) -> dict[str, str]:
        """Return the header that answers the registry's `challenge`."""
        kind, _, rest = challenge.partition(" ")
        basic = _auth_of(self._address.registry)
        own = {"Authorization": f"Basic {basic}"} if basic else {}
        if kind.lower() != "bearer":
            return own
        given = dict(CHALLENGE.findall(rest))
        if not given.get("realm", "").startswith(("https://", "http://")):
            raise unavailable(f"{self._address.registry} asks for a token and does not say where to get it")
        scope = given.get("scope") or f"repository:{self._address.repository}:pull"
        query = {"scope": scope} | ({"service": given["service"]} if "service" in given else {})
        reply = await client.get(given["realm"], params=query, headers=own)
        self._refuse(reply)
        try:
            answer = reply.json()
            token = answer.get("token") or answer["access_token"]
        except (ValueError, KeyError, AttributeError) as error:
            raise unavailable(f"{self._address.registry} gave no token") from error
        return {"Authorization": f"Bearer {token}"}

    def _of_this_machine(self, manifest: Manifest) -> Descriptor:
        for each in manifest.manifests:
            if each.platform.get("architecture") == "amd64" and each.platform.get("os") == "linux":
                return each
        if len(manifest.manifests) == 1:
            return manifest.manifests[0]
        raise invalid(f"{self._address.shown} has nothing for linux/amd64")

    def _disk_of(self, manifest: Manifest) -> Descriptor:
        named = [each for each in manifest.layers if each.annotations.get(TITLE, "").lower().endswith(SUFFIXES)]
        found = named or [each for each in manifest.layers if not each.media_type.endswith((".tar", "+gzip", "+zstd"))]
        if len(found) != 1:
            raise invalid(
                f"{self._address.shown} has {len(found)} files that could be a disk, and not one:"
                " push one .qcow2 or .zip as a file (oras push), not an image with layers"
            )
        return found[0]


def _config_path() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def _auth_of(registry: str) -> str | None:
    """Return user and password for `registry` in Basic's form, as ``docker login`` has kept them."""
    try:
        auths: Mapping[str, Any] = json.loads(_config_path().read_text())["auths"]
        entry = auths.get(registry) or auths.get(f"https://{registry}") or {}
        if auth := entry.get("auth"):
            return str(auth)
        if entry.get("username"):
            return base64.b64encode(f"{entry['username']}:{entry['password']}".encode()).decode()
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return None
