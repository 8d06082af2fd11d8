"""Images in a real OCI registry, Debian's: pushed as a client pushes, fetched by tag and digest, with a password."""

import base64
import contextlib
import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from image_rig import qcow2_disk
from osworld_contract.faults import FaultError
from osworld_contract.places import cache_dir
from osworld_env.ports import free_port
from osworld_envpod.images import FetchLimits, ImageRequest, fetch_image, parse_address
from osworld_envpod.images.oci import MANIFEST, TITLE
from waiting import wait_until

PROGRAM: Final = cache_dir() / "test-registry" / "usr" / "bin" / "docker-registry"
UP_DEADLINE_S: Final = 60.0
LIMITS: Final = FetchLimits(total_s=60, stall_s=10, attempts=2, retry_pause_s=0.05)
USER: Final = ("me", "secret")
HTPASSWD: Final = "me:$2b$04$C6yzu/3xgmHOLx6L1fGzCOtmJyuMU91ExjpvuEUque2EFm6JCKhn2\n"
"""`USER`, as bcrypt has it."""


@dataclass(frozen=True)
class Registry:
    """A running registry."""

    name: str

    def push(self, tag: str, files: dict[str, bytes]) -> str:
        """Push an artifact of `files`, as ``oras push`` does, and return its digest."""
        with httpx.Client(base_url=f"http://{self.name}/v2/org/desktop", auth=USER, timeout=30) as client:
            layers = [self._blob(client, data) | {"annotations": {TITLE: name}} for name, data in files.items()]
            config = self._blob(client, b"{}") | {"mediaType": "application/vnd.oci.empty.v1+json"}
            manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
            headers = {"Content-Type": MANIFEST}
            reply = client.put(f"/manifests/{tag}", content=json.dumps(manifest), headers=headers).raise_for_status()
            return str(reply.headers["Docker-Content-Digest"])

    def _blob(self, client: httpx.Client, data: bytes) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        place = client.post("/blobs/uploads/").raise_for_status().headers["Location"]
        headers = {"Content-Type": "application/octet-stream"}
        client.put(
            httpx.URL(place).copy_merge_params({"digest": digest}), content=data, headers=headers
        ).raise_for_status()
        return {"mediaType": "application/octet-stream", "digest": digest, "size": len(data)}


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[Registry]:
    """Give a running registry that asks for `USER`."""
    port = free_port()
    (folder / "htpasswd").write_text(HTPASSWD)
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "tests"},
        "auth": {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}},
    }
    (folder / "config.yml").write_text(json.dumps(settings))  # JSON is YAML
    argv = [str(PROGRAM), "serve", str(folder / "config.yml")]
    with (folder / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            url = f"http://127.0.0.1:{port}/v2/"
            wait_until(lambda: _status(url) == httpx.codes.UNAUTHORIZED, UP_DEADLINE_S, f"a registry, {folder / 'log'}")
            yield Registry(f"127.0.0.1:{port}")
        finally:
            process.kill()


def _status(url: str) -> int:
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.HTTPError:
        return 0


async def test_an_artifact_is_fetched_from_a_real_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    disk = qcow2_disk()
    with registry(tmp_path) as running:
        digest = running.push("v1", {"README.md": b"read me", "Ubuntu.qcow2": disk})

        async def fetched(reference: str, store: str) -> bytes:
            address = parse_address(f"oci://{running.name}/org/desktop{reference}")
            image = await fetch_image(ImageRequest(address, store=tmp_path / store, limits=LIMITS))
            return (image / "disk.qcow2").read_bytes()

        with pytest.raises(FaultError, match="has no credentials for"):
            await fetched(":v1", "a")
        auth = base64.b64encode(":".join(USER).encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {running.name: {"auth": auth}}}))
        assert await fetched(":v1", "a") == disk
        assert await fetched(f"@{digest}", "b") == disk
        with pytest.raises(FaultError, match=r"does not have it \(404\)"):
            await fetched(":none", "c")
