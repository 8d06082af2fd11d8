"""Zips with a disk in them, as OSWorld publishes its images: unpacked, or refused with nothing left behind."""

import stat
import zipfile
from pathlib import Path

import pytest

from image_rig import image_server, qcow2_disk, sha256, status
from osworld_contract.faults import FaultError, FaultReason
from osworld_envpod.desktops.base import DesktopState
from osworld_envpod.desktops.qemu import QemuDesktop, QemuSettings
from osworld_envpod.desktops.qemu.argv import FirmwareBoot
from osworld_envpod.desktops.qemu.firmware import find_firmware
from osworld_envpod.desktops.qemu.image import find_image
from osworld_envpod.desktops.qemu.settings import Firmware
from osworld_envpod.images import FetchLimits, ImageRequest, fetch_image, parse_address

DISK = qcow2_disk()


def _zip(path: Path, members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def _request(address: str, tmp_path: Path, digest: str | None = None, max_bytes: int = 1 << 40) -> ImageRequest:
    limits = FetchLimits(total_s=60, retry_pause_s=0, disk_max_bytes=max_bytes)
    return ImageRequest(parse_address(address), digest, tmp_path / "store", limits)


async def test_the_disk_of_a_published_zip_is_unpacked_and_the_zip_is_gone(tmp_path: Path) -> None:
    packed = _zip(tmp_path / "Ubuntu.qcow2.zip", {"Ubuntu.qcow2": DISK, "__MACOSX/._Ubuntu.qcow2": b"x"}).read_bytes()
    shown: list[tuple[int, int]] = []
    async with image_server(packed) as server:
        request = _request(server.url, tmp_path, sha256(packed))
        folder = await fetch_image(request, lambda have, total: shown.append((have, total)))
    assert (folder / "disk.qcow2").read_bytes() == DISK
    assert (folder / "disk.sha256").read_text().split()[0] == sha256(DISK)
    assert stat.S_IMODE((folder / "disk.qcow2").stat().st_mode) == 0o444
    assert sorted(path.name for path in folder.parent.iterdir()) == ["image", "lock"]
    assert (len(packed), len(packed)) in shown and shown[-1] == (len(DISK), len(DISK))


async def test_a_zip_with_kernel_and_initrd_is_what_the_qemu_provider_boots(tmp_path: Path) -> None:
    members = {"desk/disk.qcow2": DISK, "desk/vmlinuz": b"kernel", "desk/initrd.img": b"initrd", "other/vmlinuz": b"no"}
    image = await find_image(_request(str(_zip(tmp_path / "desk.zip", members)), tmp_path))
    assert image.direct_boot is not None
    assert image.direct_boot.kernel.read_bytes() == b"kernel"
    assert image.direct_boot.initrd.read_bytes() == b"initrd"
    assert image.digest == sha256(DISK)


async def test_a_disk_alone_is_a_whole_one_be_it_in_a_zip_a_file_or_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    disk = folder / "disk.qcow2"
    disk.write_bytes(DISK)
    published = _zip(tmp_path / "Ubuntu.qcow2.zip", {"Ubuntu.qcow2": DISK})
    for place in (published, disk, folder):
        image = await find_image(_request(str(place), tmp_path))
        assert (image.disk.read_bytes(), image.digest, image.direct_boot) == (DISK, sha256(DISK), None)


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["vmlinuz", "initrd.img"], "disk.qcow2"),
        (["disk.qcow2", "vmlinuz"], "initrd.img"),
        (["disk.qcow2", "initrd.img"], "vmlinuz"),
        ([], "disk.qcow2"),
    ],
)
async def test_half_an_image_is_a_fault_of_the_start(tmp_path: Path, names: list[str], missing: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(DISK)
    with pytest.raises(FaultError, match=f"has no {missing}$"):
        await find_image(_request(str(folder), tmp_path))


def test_a_missing_firmware_is_named_and_a_bios_needs_none(tmp_path: Path) -> None:
    firmware = tmp_path / "OVMF.fd"
    with pytest.raises(FaultError, match="install the Debian package ovmf"):
        find_firmware(Firmware.UEFI, [firmware])
    assert find_firmware(Firmware.BIOS, [firmware]) == FirmwareBoot(None, "")
    firmware.write_bytes(b"firmware")
    assert find_firmware(Firmware.UEFI, [tmp_path / "none", firmware]) == FirmwareBoot(firmware, sha256(b"firmware"))


async def test_an_image_that_cannot_be_had_is_the_fault_of_the_start(tmp_path: Path) -> None:
    async with image_server(DISK) as server:
        server.script = [status(404)]
        settings = QemuSettings(tmp_path / "run", tmp_path / "templates", _request(server.url, tmp_path))
        desktop = QemuDesktop(settings)
        with pytest.raises(FaultError, match=r"does not have it \(404\)") as caught:
            await desktop.start(desktop.start_deadline_s)
    assert (caught.value.fault.reason, desktop.state) == (FaultReason.IMAGE_UNAVAILABLE, DesktopState.FAILED)
    assert list((tmp_path / "run").iterdir()) == []
    await desktop.stop(5)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"readme": b"x"}, "0 disks"),
        ({"a.qcow2": DISK, "b/b.qcow2": DISK}, "2 disks and not one: a.qcow2, b/b.qcow2"),
        ({"a.qcow2": b"no disk"}, "no qcow2 disk"),
        ({"a.qcow2": qcow2_disk(backing=200)}, "backing file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_zip_that_is_no_image_is_refused(tmp_path: Path, members: dict[str, bytes], words: str) -> None:
    await _assert_refused(_zip(tmp_path / "a.zip", members), words)


async def _assert_refused(archive: Path, words: str, max_bytes: int = 1 << 40) -> None:
    with pytest.raises(FaultError, match=words) as caught:
        await fetch_image(_request(str(archive), archive.parent, max_bytes=max_bytes))
    assert caught.value.fault.reason is FaultReason.IMAGE_INVALID
    assert {path.name for path in archive.parent.glob("store/*/*")} == {"lock"}


async def test_no_member_is_written_under_a_name_of_its_own(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"../../../../escaped.qcow2": DISK})
    folder = await fetch_image(_request(str(archive), tmp_path))
    assert sorted(path.name for path in folder.iterdir()) == ["disk.qcow2", "disk.sha256"]
    assert [path for path in tmp_path.rglob("*escaped*")] == []


async def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a.qcow2")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    await _assert_refused(tmp_path / "a.zip", "no file")


async def test_a_zip_that_would_unpack_to_too_much_is_refused(tmp_path: Path) -> None:
    await _assert_refused(_zip(tmp_path / "a.zip", {"a.qcow2": DISK}), "over 1000000", max_bytes=1_000_000)


async def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"a.qcow2": DISK})
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flags of the central directory's entry
    archive.write_bytes(data)
    await _assert_refused(archive, "encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
async def test_a_damaged_zip_is_refused_and_its_half_disk_removed(tmp_path: Path, method: int) -> None:
    archive = _zip(tmp_path / "a.zip", {"a.qcow2": DISK}, method=method)
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    archive.write_bytes(data)
    await _assert_refused(archive, "zip is damaged")
    archive.write_bytes(data[: len(data) // 2])
    await _assert_refused(archive, "zip is damaged")
