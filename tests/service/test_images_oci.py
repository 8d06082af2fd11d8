"""Images in OCI registries: which blob is the disk, tokens, and a download that is verified by the artifact's own hash.

The registry is played here, where it has to break off, lie, or ask for tokens; `tests/providers` has a real one.
"""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from image_rig import qcow2_disk, serving
from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.images import FetchLimits, ImageRequest, fetch_image, parse_address
from osworld_envpod.images.oci import DOCKER_MANIFEST, INDEX, MANIFEST, TITLE

LIMITS = FetchLimits(total_s=60, stall_s=5, attempts=2, retry_pause_s=0.05)
DISK_TYPE = "application/octet-stream"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Registry:
    """A registry with one repository, ``org/desktop``, that may want a token."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, bytes] = field(default_factory=dict)
    user: str | None = None
    """``user:password`` for which it gives a token; None: nobody is asked."""
    cut_at: int | None = None
    """The next blob breaks off there."""
    url: str = ""
    seen: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.url.removeprefix("http://")

    def put(self, data: bytes, kind: str = DISK_TYPE, title: str | None = None) -> dict[str, Any]:
        """Keep a blob and return its descriptor."""
        self.blobs[digest(data)] = data
        found: dict[str, Any] = {"mediaType": kind, "digest": digest(data), "size": len(data)}
        return found | ({"annotations": {TITLE: title}} if title else {})

    def tag(self, name: str, *layers: dict[str, Any], kind: str = MANIFEST) -> bytes:
        """Keep a manifest of `layers` under `name` and under its digest."""
        body = json.dumps({"schemaVersion": 2, "mediaType": kind, "layers": list(layers)}).encode()
        self.tags[name] = self.tags[digest(body)] = body
        return body

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"{request.path} {request.headers.get('Range', '')}".strip())
        if request.path == "/token":
            return self._token(request)
        if self.user and request.headers.get("Authorization") != "Bearer the-token":
            challenge = f'Bearer realm="{self.url}/token",service="tests",scope="repository:org/desktop:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        kind, _, name = request.path.removeprefix("/v2/org/desktop/").partition("/")
        if kind == "manifests" and name in self.tags:
            assert MANIFEST in request.headers["Accept"]
            body = self.tags[name]
            return web.Response(body=body, content_type=json.loads(body)["mediaType"])
        if kind == "blobs" and name in self.blobs:
            return await self._blob(request, self.blobs[name])
        return web.json_response({"errors": [{"code": "NAME_UNKNOWN"}]}, status=404)

    def _token(self, request: web.Request) -> web.Response:
        assert (request.query["service"], request.query["scope"]) == ("tests", "repository:org/desktop:pull")
        wanted = "Basic " + base64.b64encode(str(self.user).encode()).decode()
        if request.headers.get("Authorization") != wanted:
            return web.Response(status=401)
        return web.json_response({"token": "the-token"})

    async def _blob(self, request: web.Request, data: bytes) -> web.StreamResponse:
        offset = request.http_range.start or 0
        headers = {"Content-Range": f"bytes {offset}-{len(data) - 1}/{len(data)}"} if offset else {}
        response = web.StreamResponse(status=206 if offset else 200, headers=headers)
        response.content_length = len(data) - offset
        await response.prepare(request)
        end, self.cut_at = self.cut_at, None
        await response.write(data[offset : end or len(data)])
        if end is not None:
            assert request.transport is not None
            request.transport.close()
        return response


@pytest.fixture
async def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Registry]:
    """A running registry, and no credentials for it."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    running = Registry()
    async with serving(running.answer) as url:
        running.url = url
        yield running


async def fetched(registry: Registry, folder: Path, reference: str = ":v1", sha256: str | None = None) -> bytes:
    address = parse_address(f"oci://{registry.name}/org/desktop{reference}")
    image = await fetch_image(ImageRequest(address, sha256, store=folder, limits=LIMITS))
    return (image / "disk.qcow2").read_bytes()


async def test_the_disk_of_an_artifact_is_fetched_by_tag_and_by_digest(registry: Registry, tmp_path: Path) -> None:
    disk = qcow2_disk()
    body = registry.tag("v1", registry.put(b"{}", title="README.md"), registry.put(disk, title="Ubuntu.qcow2"))
    assert await fetched(registry, tmp_path / "a") == disk
    assert await fetched(registry, tmp_path / "b", f"@{digest(body)}") == disk
    registry.tag("latest", registry.put(disk), kind=DOCKER_MANIFEST)
    assert await fetched(registry, tmp_path / "c", "") == disk


async def test_an_index_leads_to_the_manifest_of_this_machine(registry: Registry, tmp_path: Path) -> None:
    disk = qcow2_disk()
    manifests = []
    for architecture, data in (("arm64", qcow2_disk(5)), ("amd64", disk)):
        body = registry.tag(architecture, registry.put(data))
        platform = {"architecture": architecture, "os": "linux"}
        manifests.append({"mediaType": MANIFEST, "digest": digest(body), "platform": platform})
    registry.tags["v1"] = json.dumps({"mediaType": INDEX, "manifests": manifests}).encode()
    assert await fetched(registry, tmp_path / "a") == disk


async def test_a_download_that_breaks_off_goes_on_without_an_etag(registry: Registry, tmp_path: Path) -> None:
    disk = qcow2_disk()
    registry.tag("v1", registry.put(disk))
    registry.cut_at = 2_000_000
    assert await fetched(registry, tmp_path / "a") == disk
    blobs = [line for line in registry.seen if "/blobs/" in line]
    assert len(blobs) == 2
    assert "bytes=" in blobs[1]


async def test_a_token_is_asked_for_with_the_users_credentials(registry: Registry, tmp_path: Path) -> None:
    disk = qcow2_disk()
    registry.tag("v1", registry.put(disk))
    registry.user = "me:secret"
    with pytest.raises(FaultError, match=r"asks for credentials; .*config\.json has no credentials for") as refused:
        await fetched(registry, tmp_path / "a")
    assert refused.value.fault.reason is FaultReason.IMAGE_UNAVAILABLE
    (tmp_path / "docker").mkdir()
    auths = {registry.name: {"auth": base64.b64encode(b"me:secret").decode()}}
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": auths}))
    assert await fetched(registry, tmp_path / "a") == disk


async def test_a_blob_of_another_content_is_refused_and_forgotten(registry: Registry, tmp_path: Path) -> None:
    disk = qcow2_disk()
    registry.tag("v1", registry.put(disk))
    registry.blobs[digest(disk)] = qcow2_disk()[:-1] + b"y"
    with pytest.raises(FaultError, match="wrong hash"):
        await fetched(registry, tmp_path / "a")
    registry.blobs[digest(disk)] = disk
    assert await fetched(registry, tmp_path / "a") == disk


@pytest.mark.parametrize(
    ("titles", "kind", "words"),
    [
        (("a.qcow2", "b.qcow2"), DISK_TYPE, "has 2 files that could be a disk"),
        ((None,), LAYER_TYPE, "has 0 files that could be a disk"),
        ((), DISK_TYPE, "has 0 files that could be a disk"),
    ],
)
async def test_what_has_not_one_disk_is_refused(
    registry: Registry, tmp_path: Path, titles: tuple[str | None, ...], kind: str, words: str
) -> None:
    registry.tag("v1", *(registry.put(f"{number}".encode(), kind, title) for number, title in enumerate(titles)))
    with pytest.raises(FaultError, match=words) as refused:
        await fetched(registry, tmp_path / "a")
    assert refused.value.fault.reason is FaultReason.IMAGE_INVALID


async def test_what_is_not_there_is_said(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(FaultError, match=r"does not have it \(404\)"):
        await fetched(registry, tmp_path / "a", ":none")
    registry.tags["v1"] = b"{" + json.dumps({"mediaType": MANIFEST}).encode()[1:-1] + b', "layers": 3}'
    with pytest.raises(FaultError, match=r"manifest .* cannot be read"):
        await fetched(registry, tmp_path / "a")


async def test_the_users_own_hash_is_held_against_the_artifacts(registry: Registry, tmp_path: Path) -> None:
    registry.tag("v1", registry.put(qcow2_disk()))
    with pytest.raises(FaultError, match="has the hash"):
        await fetched(registry, tmp_path / "a", sha256="0" * 64)
