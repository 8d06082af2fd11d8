"""The router's small pure rules: tokens, headers, the end of a v1 episode, the pool's health."""

import base64

import pytest

from osworld_contract.faults import SPECS, FaultKind, FaultReason, fault_error
from osworld_contract.registry import RegistryEntry
from osworld_contract.wire import HealthReply
from osworld_router.auth import Gate
from osworld_router.headers import ack_headers, end_to_end, idempotency_headers, upstream_headers, upstream_query
from osworld_router.health import summarize
from osworld_router.openapi import document
from osworld_router.reply import ends_v1_episode
from osworld_router.resolve import CALLS, PAGES, Operation, Request, Route

ENTRY = RegistryEntry(env_idx=3, uid="u", epoch=7, url="http://127.0.0.1:1")
STEP = Route(Operation.STEP, 3, "/env/step")


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("shown", ["Bearer s3cret", "bearer  s3cret ", basic("job:s3cret"), basic(":s3cret")])
def test_bearer_and_basic_are_let_in(shown: str) -> None:
    assert Gate("s3cret").admits([shown])


@pytest.mark.parametrize(
    "shown",
    [[], [""], ["Bearer"], ["Bearer s3cre"], ["Bearer s3cret1"], ["s3cret"], ["Digest s3cret"], ["Basic !!!"],
     ["Basic \u00e9"], [basic("s3cret")], [basic("s3cret:")], [basic("a:b:s3cret")], ["Bearer s3cret"] * 2],
)  # fmt: skip
def test_everybody_else_is_not(shown: list[str]) -> None:
    assert not Gate("s3cret").admits(shown)


def test_without_a_token_everybody_is_let_in() -> None:
    assert Gate(None).admits([])


def test_headers_of_one_connection_are_dropped() -> None:
    headers = [
        (b"Connection", b"keep-alive, X-Private"), (b"X-Private", b"1"), (b"Transfer-Encoding", b"chunked"),
        (b"Keep-Alive", b"5"), (b"X-Kept", b"a"), (b"x-kept", b"b"),
    ]  # fmt: skip
    assert end_to_end(headers) == [(b"x-kept", b"a"), (b"x-kept", b"b")]


def test_the_router_answers_for_who_and_which_epoch() -> None:
    headers = ((b"authorization", b"Bearer of-the-client"), (b"x-env-idx", b"9"), (b"x-osworld-epoch", b"99"),
               (b"x-osworld-uid", b"of-the-client"),
               (b"host", b"router"), (b"content-type", b"application/json"), (b"x-osworld-acks", b"0"),
               (b"x-osworld-ended", b"e"))  # fmt: skip
    sent = upstream_headers(Request("POST", "/env/step", headers=headers), STEP, ENTRY)
    assert sent == [
        ("content-type", "application/json"),
        ("X-Env-Idx", "3"),
        ("X-Osworld-Epoch", "7"),
        ("X-Osworld-Uid", "u"),
        ("X-Osworld-Acks", "1"),
    ]
    evaluate = Route(Operation.EVALUATE, 3, "/env/evaluate")
    assert "X-Osworld-Acks" not in dict(upstream_headers(Request("POST", "/env/evaluate"), evaluate, ENTRY))


def test_an_acknowledgement_names_its_call() -> None:
    own = ack_headers(Request("POST", "/env/step"), STEP, ENTRY, [("Idempotency-Key", "k")])
    assert own == [("Idempotency-Key", "k"), ("X-Env-Idx", "3"), ("X-Osworld-Epoch", "7"), ("X-Osworld-Uid", "u")]
    numbered = Request("POST", "/env/step", headers=((b"x-osworld-step", b"4"),))
    assert ack_headers(numbered, STEP, ENTRY, [])[0] == ("X-Osworld-Step", "4")


def test_a_step_gets_a_key_of_its_own_unless_the_client_numbers_it() -> None:
    bare = Request("POST", "/env/step")
    [(name, first)], [(_, second)] = idempotency_headers(bare, STEP), idempotency_headers(bare, STEP)
    assert name == "Idempotency-Key"
    assert first != second
    for header in (b"idempotency-key", b"x-osworld-step"):
        assert idempotency_headers(Request("POST", "/env/step", headers=((header, b"1"),)), STEP) == []
    reset = Route(Operation.RESET, 3, "/env/reset")
    assert [name for name, _ in idempotency_headers(Request("POST", "/env/reset"), reset)] == ["Idempotency-Key"]
    assert idempotency_headers(Request("POST", "/env/reset", headers=((b"idempotency-key", b"1"),)), reset) == []
    assert idempotency_headers(bare, Route(Operation.EVALUATE, 3, "/env/evaluate")) == []


def test_a_query_stays_as_it_is_and_fits_a_request_line() -> None:
    assert upstream_query(Request("POST", "/", b"since=3&a=%20b+c")) == "since=3&a=%20b+c"
    assert upstream_query(Request("POST", "/", b"a=\xff b#\r\n")) == "a=%FF%20b%23%0D%0A"


def test_no_fault_of_ours_becomes_a_format_penalty() -> None:
    for reason, spec in SPECS.items():
        if spec.kind is not FaultKind.CLIENT:
            assert ends_v1_episode(fault_error(reason).fault), reason
    for reason in (
        FaultReason.UNAUTHORIZED,
        FaultReason.UNKNOWN_ENV,
        FaultReason.NOT_FOUND,
        FaultReason.BODY_TOO_LARGE,
    ):
        assert not ends_v1_episode(fault_error(reason).fault)
    assert ends_v1_episode(fault_error(FaultReason.STALE_EPOCH).fault)
    assert ends_v1_episode(fault_error(FaultReason.NO_EPISODE).fault)


def health(**fields: object) -> HealthReply:
    usual = {"provider": "xvfb", "kvm_available": True, "kvm_device": "/dev/kvm", "env_status": "initialized"}
    return HealthReply.model_validate(usual | fields)


def test_a_pool_is_as_well_as_its_worst_env() -> None:
    pool = summarize(
        "p", [health(), health(status="degraded", env_status="not_initialized", kvm_available=False), None]
    )
    assert (pool.status, pool.kvm_available, pool.env_status) == ("degraded", False, "initialized")
    assert pool.pool.model_dump() == {
        "name": "p", "total": 3, "ready": 1, "degraded": 1, "down": 1, "initialized": 1,
    }  # fmt: skip
    assert summarize("p", [health()]).status == "ok"


def test_a_pool_without_an_answer_still_has_every_field_of_v1() -> None:
    for answers in ([], [None]):
        pool = summarize("p", answers)
        assert (pool.status, pool.provider, pool.kvm_device) == ("degraded", "unknown", None)


def test_the_openapi_document_has_every_path() -> None:
    paths = document()["paths"]
    own = {"/health", "/livez", "/readyz", "/envs", "/peers", "/metrics", "/openapi.json"}
    of_env = {f"/envs/{{env_idx}}{path}" for path in (*CALLS, *PAGES)}
    assert set(paths) == own | of_env | set(CALLS)
