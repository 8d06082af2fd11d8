"""How an env server starts, or refuses to: one sentence, an exit code, no traceback."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from osworld_contract.places import cache_dir
from osworld_env.ports import free_port
from process_looks import environment_of, name_of
from server_process import clean_environment, env_server
from waiting import wait_until


def ended(folder: Path, *wrapper: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an env server that is to end by itself, below `wrapper` if there is one."""
    command = [*wrapper, sys.executable, "-m", "osworld_envpod"]
    environment = clean_environment(**{"OSWORLD_PORT": str(free_port())} | variables)
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PROVIDER": "vmwear"}, ("PROVIDER", "'xvfb'", "vmwear")),
        ({"PROVIDER": "xvfb", "OSWORLD_MAX_STEPS": "0"}, ("OSWORLD_MAX_STEPS", "greater than or equal to 1")),
        ({"PROVIDER": "xvfb", "OSWORLD_FORMAT_REWARD": "nice"}, ("OSWORLD_FORMAT_REWARD", "'plain' or 'shaped'")),
        ({"PROVIDER": "xvfb", "OSWORLD_PORT": "70000"}, ("OSWORLD_PORT", "65535")),
        ({"PROVIDER": "xvfb", "OSWORLD_HOST": "0.0.0.0"}, ("OSWORLD_HOST", "OSWORLD_TOKEN", "--insecure")),
    ],
)
def test_a_bad_setting_is_named_with_what_is_accepted(
    tmp_path: Path, variables: dict[str, str], words: tuple[str, ...]
) -> None:
    result = ended(tmp_path, **variables)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def test_settings_are_read_from_dotenv_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PROVIDER=xvfb\nOSWORLD_MAX_STEPS=none\n")
    assert "OSWORLD_MAX_STEPS" in ended(tmp_path).stderr
    assert "vmwear" in ended(tmp_path, PROVIDER="vmwear").stderr


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = ended(tmp_path, PROVIDER="xvfb", OSWORLD_PORT=str(taken.getsockname()[1]))
    assert result.returncode == 1
    assert "OSWORLD_PORT" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = ended(tmp_path, PROVIDER="xvfb", OSWORLD_CACHE_DIR=str(tmp_path / "file" / "cache"))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert str(tmp_path / "file") in result.stderr.splitlines()[-1]


def test_a_missing_program_is_named_with_its_package(tmp_path: Path) -> None:
    hide = ("bwrap", "--dev-bind", "/", "/", "--ro-bind", "/dev/null", "/usr/bin/Xvfb")
    result = ended(tmp_path, *hide, PROVIDER="xvfb")
    assert result.returncode == 1
    assert "Xvfb" in result.stderr.splitlines()[-1]
    assert "xvfb" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    links = [word for name in ("guest", "task-worker") for word in ("--symlink", cache_dir() / name, small / name)]
    fill = f'head -c 1000000 /dev/zero > {small}/fill; exec "$@"'
    disk = ["bwrap", "--dev-bind", "/", "/", "--size", "65536", "--tmpfs", small, *links, "bash", "-c", fill, "bash"]
    result = ended(tmp_path, *map(str, disk), PROVIDER="xvfb", OSWORLD_CACHE_DIR=str(small))
    assert result.returncode == 1
    assert "no space" in result.stderr.splitlines()[-1].lower(), result.stderr
    assert "Traceback" not in result.stderr


def test_the_token_is_asked_for_and_shown_nowhere(tmp_path: Path) -> None:
    token = "t0p-s3cret-token"
    with env_server(tmp_path, OSWORLD_TOKEN=token, OPENAI_API_KEY="sk-s3cret-key") as server:
        server.wait_ready()
        assert httpx.get(server.url + "/health").status_code == 200
        for auth, headers, status in (
            (None, {}, 401),
            (None, {"Authorization": "Bearer wrong"}, 401),
            (("job", "wrong"), {}, 401),
            (None, {"Authorization": "Basic !!!"}, 401),
            (None, {"Authorization": f"Bearer {token}"}, 200),
            (("job", token), {}, 200),
        ):
            reply = httpx.get(server.url + "/state", auth=auth, headers=headers)
            assert reply.status_code == status
            assert status == 200 or reply.json()["fault"]["reason"] == "unauthorized"
        shown = [httpx.get(server.url + path, auth=("job", token)).text for path in ("/health", "/state", "/metrics")]
        assert not [text for text in [*shown, server.log] if token in text or "sk-s3cret-key" in text]
        below = psutil.Process(server.pid).children(recursive=True)
        told = [environment_of(process) for process in below if name_of(process) == "Xvfb"]
        assert any(told), "an X server"
        assert not [text for text in told if token.encode() in text]


def test_uvicorns_factory_form_starts_it_too(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "osworld_envpod.app:create_app", "--port", str(port)]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=clean_environment(PROVIDER="xvfb"), cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT
        )

    def is_ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz").is_success
        except httpx.HTTPError:
            return False

    try:
        wait_until(is_ready, 90, "the env server")
        assert "Startup: PROVIDER=xvfb" in log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
