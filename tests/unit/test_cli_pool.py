"""What a local pool is made of: servers, variables, pauses between restarts."""

from pathlib import Path

import pytest

from osworld_contract.names import ENV_TOKEN, ENV_UPSTREAM_TOKEN
from osworld_env.keeper import BACKOFF_MAX_S, Limits
from osworld_env.pool_plan import PoolPlan, Server, env_launch, limits_for, next_server, router_launch

PLAN = PoolPlan(
    envs=2,
    provider="xvfb",
    host="0.0.0.0",
    port=15001,
    run_dir=Path("/run/x"),
    router_token="outer",
    upstream_token="inner",
    env_variables={"OSWORLD_MAX_STEPS": "7"},
)
USERS = {"PATH": "/bin", ENV_TOKEN: "outer", ENV_UPSTREAM_TOKEN: "stale", "OSWORLD_INSECURE": "1", "PROVIDER": "vmware"}


def test_the_next_env_server_of_a_slot_is_another() -> None:
    first, second = next_server(3, 4001), next_server(3, 4002)
    assert first.uid != second.uid
    assert (first.url, second.url) == ("http://127.0.0.1:4001", "http://127.0.0.1:4002")


def test_env_servers_whose_machines_boot_have_time_for_it() -> None:
    # An image's fetch, a try under KVM, a boot under emulation, each bounded by the env server.
    assert limits_for("docker").start_s > 3600 + 300 + 2400
    assert limits_for("docker").stop_s == limits_for("xvfb").stop_s
    assert limits_for("xvfb") == limits_for("qemu") == Limits()


def test_an_env_server_asks_for_the_pools_own_token() -> None:
    variables = env_launch(PLAN, Server(0, "u", 4001), USERS).variables
    assert variables[ENV_TOKEN] == "inner"
    assert variables["OSWORLD_INSECURE"] == "0"
    assert variables["OSWORLD_HOST"] == "127.0.0.1"
    assert variables["PROVIDER"] == "xvfb"
    assert variables["OSWORLD_MAX_STEPS"] == "7"
    assert ENV_UPSTREAM_TOKEN not in variables
    assert "outer" not in variables.values()


def test_the_router_asks_for_the_users_token_and_shows_the_pools() -> None:
    variables = router_launch(PLAN, USERS).variables
    assert variables[ENV_TOKEN] == "outer"
    assert variables[ENV_UPSTREAM_TOKEN] == "inner"
    assert variables["OSWORLD_INSECURE"] == "0"


def test_no_token_is_in_an_argument_vector_or_a_repr() -> None:
    launches = (env_launch(PLAN, Server(0, "u", 4001), USERS), router_launch(PLAN, USERS))
    assert not [argument for launch in launches for argument in launch.argv if argument in ("inner", "outer")]
    assert "inner" not in repr(PLAN)
    assert "outer" not in repr(PLAN)


@pytest.mark.parametrize(
    ("host", "url"), [("0.0.0.0", "http://127.0.0.1:9"), ("::1", "http://[::1]:9"), ("h", "http://h:9")]
)
def test_the_routers_url_can_be_used_on_this_machine(host: str, url: str) -> None:
    plan = PoolPlan(envs=1, provider="xvfb", host=host, port=9, run_dir=Path("/run/x"))
    assert plan.router_url == url


def test_pauses_grow_to_a_limit() -> None:
    pauses = [Limits().backoff_s(restarts) for restarts in range(1, 12)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 0.5
    assert pauses[-1] == BACKOFF_MAX_S
