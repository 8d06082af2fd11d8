"""Images in S3, as moto plays it: signed, resumed, verified, and named where they cannot be had."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_rig import qcow2_disk, sha256
from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.images import FetchLimits, ImageRequest, S3Access, fetch_image, parse_address
from osworld_envpod.images.part import Origin, Part
from osworld_envpod.tasks.settings import worker_python
from providers.cloud import KEYS, Cloud, cloud

LIMITS = FetchLimits(total_s=100, stall_s=20, attempts=2, retry_pause_s=0.05)
BUCKET = "images"


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A running moto."""
    with cloud(tmp_path_factory.mktemp("moto")) as running:
        yield running


@pytest.fixture
def store(moto: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """moto with an empty bucket, to which the AWS library is led."""
    moto.forget()
    for name, value in moto.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    moto.ask("s3", "create_bucket", Bucket=BUCKET)
    return moto


def request(folder: Path, key: str, digest: str | None = None, bucket: str = BUCKET) -> ImageRequest:
    access = S3Access(worker_python(), credentials=KEYS)
    return ImageRequest(parse_address(f"s3://{bucket}/{key}"), digest, store=folder, limits=LIMITS, s3=access)


async def test_an_object_is_fetched_and_verified(store: Cloud, tmp_path: Path) -> None:
    disk = qcow2_disk(100_000)
    archive = tmp_path / "Ubuntu.qcow2.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("Ubuntu.qcow2", disk)
    store.upload(BUCKET, "osworld/Ubuntu.qcow2.zip", archive.read_bytes())
    digest = sha256(archive.read_bytes())
    image = await fetch_image(request(tmp_path / "a", "osworld/Ubuntu.qcow2.zip", digest))
    assert (image / "disk.qcow2").read_bytes() == disk
    with pytest.raises(FaultError, match="wrong hash") as refused:
        await fetch_image(request(tmp_path / "b", "osworld/Ubuntu.qcow2.zip", "0" * 64))
    assert refused.value.fault.reason is FaultReason.IMAGE_INVALID
    assert list((tmp_path / "b").glob("*/part*")) == []


async def test_a_part_of_the_same_object_is_gone_on_with(store: Cloud, tmp_path: Path) -> None:
    disk = qcow2_disk(3_000_000)
    tag = store.upload(BUCKET, "disk.qcow2", disk)
    for wanted in (tag, '"another"'):
        folder = tmp_path / wanted.strip('"')
        asked = request(folder, "disk.qcow2")
        with pytest.raises(FaultError):  # makes the image's folder, and there is no such key yet
            await fetch_image(request(folder, "none"))
        (other,) = folder.iterdir()
        await fetch_image(asked)
        (made,) = set(folder.iterdir()) - {other}
        (made / "image").rename(folder / "first")
        part = Part(made)
        part.begin(Origin(etag=wanted, total_bytes=len(disk)), "it")
        part.append(disk[:1_000_000])
        image = await fetch_image(asked)
        assert (image / "disk.qcow2").read_bytes() == disk


async def test_what_cannot_be_had_is_named(store: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, bucket in (("none", BUCKET), ("disk.qcow2", "nobodys-bucket")):
        with pytest.raises(FaultError, match=r"does not have it \(404\)") as refused:
            await fetch_image(request(tmp_path, key, bucket=bucket))
        assert refused.value.fault.reason is FaultReason.IMAGE_UNAVAILABLE
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(FaultError, match=r"could not be signed: .*nobody"):
        await fetch_image(request(tmp_path, "disk.qcow2"))
    without = ImageRequest(parse_address("s3://images/x"), store=tmp_path, s3=S3Access(Path("/nowhere")))
    with pytest.raises(FaultError, match=r"osworld_envpod\.tasks\.provision"):
        await fetch_image(without)


async def test_a_public_object_needs_no_credentials(
    store: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = qcow2_disk(1000)
    store.upload(BUCKET, "disk.qcow2", disk, "public-read")
    store.upload(BUCKET, "private.qcow2", disk)
    for name in KEYS:
        monkeypatch.delenv(name)
    access = S3Access(worker_python())

    async def fetched(key: str) -> bytes:
        asked = ImageRequest(parse_address(f"s3://{BUCKET}/{key}"), store=tmp_path, limits=LIMITS, s3=access)
        return ((await fetch_image(asked)) / "disk.qcow2").read_bytes()

    assert await fetched("disk.qcow2") == disk
    with pytest.raises(FaultError, match=r"forbids it to these credentials \(403\)"):
        await fetched("private.qcow2")
