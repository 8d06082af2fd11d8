"""What a hostile agent at the desktop's terminal tries to reach, and must not (design, "Decisions on correctness").

Every attempt is made twice: by the command endpoint, and typed at a real terminal.
"""

import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from desktop_fixtures import Machine, eventually, machine

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "a-secret-that-no-desktop-may-see"
CHECKOUT = Path(__file__).parents[2]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Machine]:
    """A desktop, started from a process that holds secrets in its environment and files."""
    os.environ["OPENAI_API_KEY"] = os.environ["OSWORLD_TOKEN"] = SECRET
    try:
        async with machine(tmp_path_factory.mktemp("run")) as running:
            await running.open_terminal()
            yield running
    finally:
        del os.environ["OPENAI_API_KEY"], os.environ["OSWORLD_TOKEN"]


@pytest.fixture(scope="module")
def listener() -> Iterator[int]:
    """A port on the host's loopback, as env server, router and worker have them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def _attempts(desk: Machine, script: str) -> list[str]:
    """Return what `script` prints, run by the command endpoint and typed at the terminal."""
    ran = await desk.run(script)
    await desk.run("rm -f /tmp/typed /tmp/typed.done")
    await desk.run(f"cat > /tmp/attempt.sh <<'EOF_OF_ATTEMPT'\n{script}\nEOF_OF_ATTEMPT")
    await desk.typed("bash /tmp/attempt.sh > /tmp/typed 2> /dev/null; touch /tmp/typed.done")

    async def is_done() -> bool:
        return (await desk.run("test -e /tmp/typed.done")).returncode == 0

    await eventually(is_done, 30, "the typed attempt")
    return [ran.output, await desk.output("cat /tmp/typed")]


async def test_attempts_themselves_work(desk: Machine) -> None:
    assert await _attempts(desk, "echo got through; ls -d /home/user") == ["got through\n/home/user\n"] * 2


@pytest.mark.parametrize(
    "path",
    [
        str(CHECKOUT),
        str(CHECKOUT / "pyproject.toml"),
        str(CHECKOUT / ".env"),
        "/root",
        "/etc/shadow",
        "/etc/sudoers",
        "/etc/pip.conf",
        "/etc/environment",
        "/var/cache/osworld-env",
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/dbus/system_bus_socket",
        "/sys/kernel",
        "/boot",
        "/srv",
        "/dev/kvm",
        "/dev/mem",
        "/dev/vda",
    ],
)
async def test_a_path_of_the_host_is_not_there(desk: Machine, path: str) -> None:
    for output in await _attempts(desk, f"ls -d {path}; head -c 100 {path}; stat -c %n {path}; sudo -n cat {path}"):
        assert output == ""


async def test_the_environment_holds_nothing_of_the_servers(desk: Machine) -> None:
    script = f"env | grep -e OPENAI -e TOKEN; cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep {SECRET[:9]}"
    for output in await _attempts(desk, script):
        assert output == ""


async def test_only_the_desktops_own_processes_are_seen(desk: Machine) -> None:
    script = (
        "cat /proc/[0-9]*/comm | sort -u | grep -x -e bwrap -e pytest -e uvicorn -e systemd -e init; ls -d /proc/99999*"
    )
    for output in await _attempts(desk, script):
        assert output == ""
    assert os.getpid() > 1
    assert (await desk.output("readlink /proc/1/exe")).strip().startswith("/usr/bin/python3")


async def test_the_user_is_nobody_on_the_host_and_gains_nothing(desk: Machine) -> None:
    for output in await _attempts(
        desk, "id -u; grep -e CapEff -e CapBnd -e NoNewPrivs /proc/self/status; unshare -Ur id"
    ):
        lines = output.split()
        assert lines[0] == "1000"
        assert "0000000000000000" in lines[lines.index("CapEff:") + 1]
        assert "0000000000000000" in lines[lines.index("CapBnd:") + 1]
        assert lines[lines.index("NoNewPrivs:") + 1] == "1"
        assert "uid=0" not in output
    script = "mount -t tmpfs none /mnt; chroot / true && echo in; mknod /tmp/disk b 254 0 && echo made; cat /tmp/disk"
    for output in await _attempts(desk, script):
        assert output == ""


async def test_files_of_the_system_cannot_be_written(desk: Machine) -> None:
    files = "/usr/bin/x /opt/osworld/x /opt/osworld/code/x /etc/passwd /etc/x"
    script = f"for f in {files}; do echo x > $f && echo wrote $f; done"
    for output in await _attempts(desk, script):
        assert "wrote" not in output or output == "wrote /etc/x\n"  # /etc itself is the sandbox's own, in memory
    assert not Path("/etc/x").exists()


async def test_no_port_of_the_host_is_reached(desk: Machine, listener: int) -> None:
    own = desk.desktop.addresses
    ports = [listener, own.server_port, own.chromium_port, 18082, 15001, 22]
    tries = "; ".join(
        f"timeout 2 bash -c 'echo > /dev/tcp/{host}/{port}' && echo reached {host} {port}"
        for host in ("127.0.0.1", "10.0.2.2", "172.17.0.1")
        for port in ports
    )
    for output in await _attempts(desk, tries):
        assert output == ""


async def test_the_internet_is_not_reached(desk: Machine) -> None:
    script = "timeout 3 bash -c 'echo > /dev/tcp/1.1.1.1/443' && echo out; timeout 3 getent hosts pypi.org; ls /sys"
    for output in await _attempts(desk, script):
        assert output == ""
    devices = (await desk.output("tail -n +3 /proc/net/dev | cut -d: -f1")).split()
    assert devices == ["lo"]


async def test_the_agents_sockets_cannot_be_taken(desk: Machine) -> None:
    agent = (await desk.output("pgrep -f 'osworld_guest --display-fd'")).split()[0]
    for output in await _attempts(desk, f"ls /proc/{agent}/fd; cat /proc/{agent}/environ /proc/{agent}/maps"):
        assert output == ""


async def test_no_abstract_socket_of_the_host_is_seen(desk: Machine) -> None:
    name = f"\0osworld-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        for output in await _attempts(desk, f"grep osworld-test-{os.getpid()} /proc/net/unix"):
            assert output == ""


async def test_a_full_home_and_many_processes_stay_inside(desk: Machine) -> None:
    # Not by the machine's free space: others use its disk at the same time.
    assert (await desk.output("stat -f -c %T ~ /tmp /run")).split() == ["tmpfs"] * 3, (
        "in memory, with a size of its own"
    )
    assert "No space left" in (await desk.run("head -c 6G /dev/zero > ~/big; rm ~/big; echo $?")).error
    assert int(await desk.output("ulimit -u")) <= 16384
