"""Settings of the router: what is accepted, and what a person reads otherwise."""

from pathlib import Path

import pytest

from osworld_contract.settings import SettingsError
from osworld_router.resolve import Operation
from osworld_router.settings import RouterSettings, load_settings


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OSWORLD_REGISTRY_FILE", "registry.json")
    for name in ("OSWORLD_TOKEN", "OSWORLD_UPSTREAM_TOKEN", "OSWORLD_INSECURE", "OSWORLD_ROUTER_HOST"):
        monkeypatch.delenv(name, raising=False)


def complaint(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings({})
    return str(caught.value)


def test_defaults_are_loopback_and_nested_deadlines() -> None:
    settings = load_settings({})
    assert (settings.router_host, settings.router_port) == ("127.0.0.1", 15001)
    assert [settings.deadlines_s[operation] for operation in Operation] == [1140, 270, 270, 270, 60, 10]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OSWORLD_ROUTER_PORT", "70000"),
        ("OSWORLD_ROUTER_PORT", "http"),
        ("OSWORLD_ROUTER_STEP_TIMEOUT_S", "0"),
        ("OSWORLD_ROUTER_STEP_TIMEOUT_S", "inf"),
        ("OSWORLD_ROUTER_STEP_TIMEOUT_S", "nan"),
        ("OSWORLD_ROUTER_BODY_LIMIT_MIB", "1.5"),
        ("OSWORLD_ROUTER_PEERS", "http://10.0.0.1:15001,10.0.0.2:15001"),
        ("OSWORLD_INSECURE", "perhaps"),
        ("OSWORLD_LOG_LEVEL", "LOUD"),
    ],
)
def test_a_wrong_value_is_one_line_with_the_variable_and_the_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    [line] = complaint(monkeypatch, **{variable: value}).splitlines()
    assert line.startswith(f"{variable}: ")
    assert value in line


def test_a_wrong_token_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    line = complaint(monkeypatch, OSWORLD_TOKEN="s3cret\n")
    assert line.startswith("OSWORLD_TOKEN: ")
    assert "s3cret" not in line


def test_every_wrong_variable_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = complaint(monkeypatch, OSWORLD_ROUTER_PORT="x", OSWORLD_LOG_LEVEL="x").splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == ["OSWORLD_LOG_LEVEL", "OSWORLD_ROUTER_PORT"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_other_machines_are_let_in_with_a_token_or_on_demand_only(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    assert "OSWORLD_TOKEN" in complaint(monkeypatch, OSWORLD_ROUTER_HOST=host)
    assert load_settings({"insecure": True}).router_host == host
    monkeypatch.setenv("OSWORLD_TOKEN", "s3cret")
    assert load_settings({}).secrets == ("s3cret",)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert load_settings({"router_host": host}).is_loopback


def test_an_empty_token_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSWORLD_TOKEN", "")
    assert load_settings({}).token is None


def test_the_order_is_command_line_environment_dotenv(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("OSWORLD_ROUTER_PORT=1001\nOSWORLD_TOKEN=from-dotenv\nPROVIDER=qemu\n")
    settings = load_settings({})
    assert (settings.router_port, settings.secrets) == (1001, ("from-dotenv",))
    monkeypatch.setenv("OSWORLD_ROUTER_PORT", "1002")
    assert load_settings({}).router_port == 1002
    assert load_settings({"router_port": "1003"}).router_port == 1003


def test_a_dotenv_that_is_no_text_is_a_sentence() -> None:
    Path(".env").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"\.env: not a text file"):
        load_settings({})


def test_secrets_do_not_show_in_the_object() -> None:
    settings: RouterSettings = load_settings({"token": "s3cret", "upstream_token": "s3cret"})
    assert "s3cret" not in repr(settings)


def test_there_is_one_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "and not both" in complaint(monkeypatch, OSWORLD_ROUTER_POOL="desks")
    monkeypatch.delenv("OSWORLD_REGISTRY_FILE")
    assert load_settings({}).router_pool == "desks"
    monkeypatch.delenv("OSWORLD_ROUTER_POOL")
    assert complaint(monkeypatch).startswith("OSWORLD_REGISTRY_FILE: ")
