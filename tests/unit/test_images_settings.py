import pytest

from osworld_contract.settings import SettingsError
from osworld_envpod.desktops.choose import desktop_for
from osworld_envpod.images import show_nothing
from osworld_envpod.settings import load_settings


def test_a_fetch_has_time_of_its_own_and_so_has_the_boot_of_an_image_that_may_be_osworlds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROVIDER", "qemu")
    monkeypatch.setenv("OSWORLD_IMAGE_TIMEOUT_S", "100")
    monkeypatch.setenv("OSWORLD_BOOT_TIMEOUT_S", "1000")
    deadlines = []
    for address in ("", "/srv/image", "https://files.example/image.zip"):
        monkeypatch.setenv("OSWORLD_QEMU_IMAGE", address)
        deadlines.append(desktop_for(load_settings(), show_nothing).start_deadline_s)
    assert deadlines == [900, 1000, 1100]


@pytest.mark.parametrize(
    ("name", "value"), [("OSWORLD_QEMU_IMAGE", "ftp://h/x"), ("OSWORLD_IMAGE_SHA256", "sha256:12")]
)
def test_an_address_or_hash_that_is_none_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("PROVIDER", "qemu")
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load_settings()
