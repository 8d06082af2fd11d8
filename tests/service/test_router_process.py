"""The router as a process: starting, refusing to start, letting clients in, stopping."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from osworld_router.errors import StartError
from osworld_router.server import bind
from osworld_router.settings import RouterSettings
from router_rig import (
    TOKEN,
    UPSTREAM_TOKEN,
    Received,
    Router,
    ScriptedEnv,
    answering,
    fault_of,
    hang_after,
    running_router,
    whole,
)
from server_process import clean_environment
from waiting import wait_for

START_DEADLINE_S = 30


def refused(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Return exit code and output of a router that must not start."""
    ended = subprocess.run(
        [sys.executable, "-m", "osworld_router", *arguments],
        env=clean_environment(**variables),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=START_DEADLINE_S,
        check=False,
    )
    assert "Traceback" not in ended.stdout
    return ended.returncode, ended.stdout


def test_a_taken_port_is_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, output = refused(tmp_path, "--port", port, "--registry", "registry.json")
    assert code == 1
    assert output.count("\n") == 1
    assert f"127.0.0.1:{port}: something else listens there" in output


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ((), 2, "OSWORLD_REGISTRY_FILE"),
        (("--registry", "r", "--port", "70000"), 2, "OSWORLD_ROUTER_PORT"),
        (("--registry", "r", "--host", "0.0.0.0"), 2, "OSWORLD_TOKEN"),
        (("--registry", "no/such/folder/r"), 1, "no/such/folder"),
        (("--registry", "r", "--host", "no.such.host.invalid", "--insecure"), 1, "no such host"),
        (("--registry", "r", "--host", "192.0.2.1", "--insecure"), 1, "192.0.2.1"),
    ],
)
def test_what_cannot_start_says_why(tmp_path: Path, arguments: tuple[str, ...], code: int, named: str) -> None:
    ended, output = refused(tmp_path, *arguments)
    assert (ended, output.count("\n")) == (code, 1)
    assert named in output


def test_dotenv_is_loaded_and_its_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OSWORLD_REGISTRY_FILE=r\nOSWORLD_ROUTER_HOST=0.0.0.0\n")
    assert "0.0.0.0 can be reached" in refused(tmp_path)[1]
    (tmp_path / ".env").write_text("OSWORLD_REGISTRY_FILE=r\nOSWORLD_ROUTER_STEP_TIMEOUT_S=soon\n")
    assert refused(tmp_path)[1].startswith("OSWORLD_ROUTER_STEP_TIMEOUT_S: ")


@pytest.fixture
def closed_router(tmp_path: Path) -> Iterator[Router]:
    """A router with tokens, the client's from a ``.env``, whose log is searched for them at the end."""
    (tmp_path / ".env").write_text(f"OSWORLD_TOKEN={TOKEN}\n")
    with running_router(tmp_path, OSWORLD_UPSTREAM_TOKEN=UPSTREAM_TOKEN, OSWORLD_LOG_LEVEL="DEBUG") as process:
        yield process
    assert TOKEN not in process.log
    assert UPSTREAM_TOKEN not in process.log


BEARER = {"Authorization": f"Bearer {TOKEN}"}


async def test_who_is_let_in(closed_router: Router) -> None:
    async with ScriptedEnv() as env:
        closed_router.write(env.entry())

        async def is_routed() -> bool:
            return bool((await closed_router.get("/envs", headers=BEARER)).json()["envs"])

        _: bool = await wait_for(is_routed, 30, "the registry")
        for options in ({"headers": BEARER}, {"auth": ("job-7", TOKEN)}, {"auth": ("", TOKEN)}):
            assert (await closed_router.post("/env/step", **options)).status_code == 200
        calls = len(env.calls)
        for options in (
            {},
            {"headers": {"Authorization": "Bearer wrong"}},
            {"headers": {"Authorization": f"Bearer {TOKEN}x"}},
            {"headers": {"Authorization": f"Bearer {UPSTREAM_TOKEN}"}},
            {"auth": (TOKEN, "wrong")},
        ):
            for path in ("/env/step", "/envs/0/env/reset", "/envs/99/env/step", "/no/such/path"):
                reply = await closed_router.post(path, **options)
                assert fault_of(reply) == (401, "unauthorized")
                assert "Basic" in reply.headers["www-authenticate"]
                assert TOKEN not in reply.text
        assert len(env.calls) == calls
        assert {call.one("Authorization") for call in env.calls} == {f"Bearer {UPSTREAM_TOKEN}"}


async def test_which_pages_are_open(closed_router: Router) -> None:
    for path in ("/health", "/livez", "/readyz", "/metrics"):
        reply = await closed_router.get(path)
        assert reply.status_code == 200, path
        assert TOKEN not in reply.text
    for path in ("/envs", "/openapi.json", "/envs/0/state", "/envs/0/screen", "/envs/0/metrics"):
        assert fault_of(await closed_router.get(path)) == (401, "unauthorized")
        assert (await closed_router.get(path, headers=BEARER)).status_code in (200, 503)
    assert (await closed_router.get("/envs/0/health")).status_code == 503


async def test_metrics_are_closed_where_other_machines_can_ask(tmp_path: Path) -> None:
    with Router(tmp_path, "--host", "0.0.0.0", OSWORLD_TOKEN=TOKEN) as router:
        router.write()
        router.wait_ready()
        assert fault_of(await router.get("/metrics")) == (401, "unauthorized")
        assert (await router.get("/metrics", headers=BEARER)).status_code == 200


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_running_call_ends_before_the_router_does(tmp_path: Path, how: signal.Signals) -> None:
    with Router(tmp_path) as router:
        router.write()
        router.wait_ready()
        go_on = asyncio.Event()

        async def when_told(request: Received, writer: asyncio.StreamWriter) -> None:
            await go_on.wait()
            await answering(whole(b"0.5"))(request, writer)

        async with ScriptedEnv(when_told) as env:
            await router.route(env.entry())
            call = asyncio.create_task(router.post("/env/evaluate"))
            await wait_for(lambda: env.calls, 30, "the call at the env server")
            ended = asyncio.create_task(asyncio.to_thread(router.stop, how))
            await wait_for(lambda: "router stopping on" in router.log, 30, "the router to stop")
            assert not call.done()
            go_on.set()
            assert (await call).content == b"0.5"
            assert await ended == 0
        assert "Traceback" not in router.log


async def test_a_call_that_does_not_end_is_answered_with_a_fault(tmp_path: Path) -> None:
    with Router(tmp_path, OSWORLD_ROUTER_STOP_TIMEOUT_S="1") as router:
        router.write()
        router.wait_ready()
        async with ScriptedEnv(hang_after(b"")) as env:
            await router.route(env.entry())
            call = asyncio.create_task(router.post("/env/evaluate"))
            await wait_for(lambda: env.calls, 30, "the call at the env server")
            assert await asyncio.to_thread(router.stop) == 0
            assert fault_of(await call) == (503, "env_down")
        assert "Traceback" not in router.log


def test_a_socket_that_is_inherited_must_listen(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, socket.socket() as idle:
        for fd, named in ((file.fileno(), "is no socket"), (os.dup(idle.fileno()), "does not listen")):
            settings = RouterSettings(registry_file=tmp_path / "r", router_listen_fd=fd)
            with pytest.raises(StartError, match=named):
                bind(settings)
