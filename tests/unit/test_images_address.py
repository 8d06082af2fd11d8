from pathlib import Path

import pytest

from osworld_envpod.images.address import FileAddress, HttpAddress, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/a/b.qcow2", FileAddress(Path("/a/b.qcow2"))),
        ("b.qcow2", FileAddress(Path("b.qcow2"))),
        ("./odd:name", FileAddress(Path("./odd:name"))),
        ("file:/a/b", FileAddress(Path("/a/b"))),
        ("file:///a/b%20c", FileAddress(Path("/a/b c"))),
        ("file://localhost/a", FileAddress(Path("/a"))),
        ("https://h/x.zip?sig=1#f", HttpAddress("https://h/x.zip?sig=1")),
        ("HTTP://h:80/x", HttpAddress("http://h:80/x")),
    ],
)
def test_an_address_is_read_as_it_is_meant(text: str, address: object) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["ftp://h/x", "http://", "http://h/", "http:///x", "http://h:99999/x", "http://h/a b", "file:x", "file://other/x"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(text)


def test_secrets_of_an_address_are_not_shown() -> None:
    assert parse_address("https://me:secret@h:1/x.zip?sig=secret").shown == "https://h:1/x.zip"
