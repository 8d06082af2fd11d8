"""schemathesis over the env server's own OpenAPI document: no defect (500), no hang, every error a fault."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from server_process import ServerProcess

EXAMPLES = 20
HANG_S = 60.0
"""No reply within this is a hang: nothing that is generated can be a valid, slow task."""

OPERATIONS = [
    ("/env/reset", "POST"),
    ("/env/step", "POST"),
    ("/env/evaluate", "POST"),
    ("/env/history_messages", "POST"),
    ("/health", "GET"),
    ("/livez", "GET"),
    ("/readyz", "GET"),
    ("/state", "GET"),
    ("/screen", "GET"),
    ("/metrics", "GET"),
    ("/ack", "POST"),
    ("/replay", "POST"),
    ("/journal", "GET"),
    ("/drain", "POST"),
]


def test_the_document_has_these_operations(server: ServerProcess) -> None:
    paths = httpx.get(server.url + "/openapi.json").json()["paths"]
    assert sorted(OPERATIONS) == sorted((path, method.upper()) for path in paths for method in paths[path])


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_request_finds_a_defect(server: ServerProcess, path: str, method: str) -> None:
    schema = schemathesis.openapi.from_dict(httpx.get(f"{server.url}/openapi.json").json())
    modes = list(schemathesis.GenerationMode)
    strategy = schema[path][method].as_strategy(generation_mode=modes[0])
    for mode in modes[1:]:
        strategy |= schema[path][method].as_strategy(generation_mode=mode)

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=strategy)
    def examine(case: schemathesis.Case[Any]) -> None:
        reply = case.call(base_url=server.url, timeout=HANG_S)
        assert reply.status_code != 500, reply.text
        if reply.status_code >= 400 and path != "/readyz":
            assert reply.json()["fault"]["reason"], reply.text

    examine()
