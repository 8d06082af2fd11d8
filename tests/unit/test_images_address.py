from pathlib import Path

import pytest

from osworld_envpod.images.address import FileAddress, HttpAddress, OciAddress, S3Address, parse_address

DIGEST = "sha256:" + "0a" * 32


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
        ("s3://my.bucket/a/b c.zip", S3Address("my.bucket", "a/b c.zip")),
        ("oci://ghcr.io/org/desktop:v1", OciAddress("ghcr.io", "org/desktop", "v1")),
        ("oci://localhost:5000/desktop", OciAddress("localhost:5000", "desktop", "latest")),
        (f"oci://r.example/a/b@{DIGEST}", OciAddress("r.example", "a/b", DIGEST)),
        (f"oci://r.example/a/b:v1@{DIGEST}", OciAddress("r.example", "a/b", DIGEST)),
    ],
)
def test_an_address_is_read_as_it_is_meant(text: str, address: object) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket",
        "s3://bucket/",
        "s3://B/x",
        "s3:bucket/x",
        "oci://r",
        "oci://r/",
        "oci://r/Upper:v1",
        "oci:r/a:b",
        "oci://me:secret@r/a",
        "oci://r/a@sha256:12",
        "oci://r/../a",
        "ftp://h/x",
        "http://",
        "http://h/",
        "http:///x",
        "http://h:99999/x",
        "http://h/a b",
        "file:x",
        "file://other/x",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(text)


def test_secrets_of_an_address_are_not_shown() -> None:
    assert parse_address("https://me:secret@h:1/x.zip?sig=secret").shown == "https://h:1/x.zip"


@pytest.mark.parametrize("text", ["s3://bucket/a/b.zip", "oci://r.example/a/b:v1", f"oci://r.example/a/b@{DIGEST}"])
def test_an_address_is_shown_as_it_is_written(text: str) -> None:
    assert parse_address(text).shown == text
