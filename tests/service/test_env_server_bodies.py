"""Bodies that are no call of the trainer's wire, or too large for one."""

from typing import Any

import httpx
import pytest

from server_process import ServerProcess

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"prediction": 7}', b'{"prediction": null}', b"\x00\xff\xfe", b'{"other": "x"}'],
)
def test_a_body_that_is_no_step_is_named(server: ServerProcess, content: bytes) -> None:
    reply = httpx.post(server.url + "/env/step", content=content, headers=JSON)
    assert (reply.status_code, reply.json()["fault"]["reason"]) == (422, "bad_request")
    assert reply.json()["detail"]


def test_a_body_of_50_mb_is_refused_whether_its_length_is_told_or_not(server: ServerProcess) -> None:
    big = b'{"prediction": "' + b"x" * 50_000_000 + b'"}'

    def pieces() -> Any:
        for start in range(0, len(big), 1_000_000):
            yield big[start : start + 1_000_000]

    for content in (big, pieces()):
        try:
            reply = httpx.post(server.url + "/env/step", content=content, timeout=60)
        except httpx.WriteError:
            continue  # the server closed while we were still sending: it did not take the body
        assert (reply.status_code, reply.json()["fault"]["reason"]) == (413, "body_too_large")
    assert httpx.get(server.url + "/livez").status_code == 200
