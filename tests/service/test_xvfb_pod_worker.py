"""What an agent's code tries from inside the task worker of an env pod, where it runs beside the env server.

The desktop answers an evaluator's question with a program, and the metric runs it: the agent's own way.
"""

import json
from collections.abc import Iterator
from textwrap import dedent
from typing import Any, Final

import httpx
import pytest

from osworld_contract.desktop_control import CONTROL_FOLDER
from osworld_contract.names import ENV_SERVER_PORT, GUEST_HOME
from osworld_contract.places import SYSTEM_CACHE
from osworld_operator.pod_volumes import SHARED
from pod_rig import CHECKOUT, SECRET, TOKEN, Pod, running_pod

ANSWER: Final = f"{GUEST_HOME}/answer"
TASK: Final = {
    "id": "hostile",
    "instruction": "test",
    "config": [],
    "evaluator": {
        "func": "check_gnome_favorite_apps",
        "result": {"type": "vm_command_line", "command": f"cat {ANSWER}", "shell": True},
        "expected": {"type": "rule", "rules": {"expected": ["editor"]}},
    },
}
PROLOGUE: Final = """
import ctypes, errno, glob, json, os, pathlib, resource, signal, socket, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
found = {}
def attempt(name, act):
    try:
        found[name] = act()
    except OSError as error:
        found[name] = errno.errorcode.get(error.errno, str(error))
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_void_p(argument) for argument in arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), "")
    return result
def content(path):
    with open(path, "rb") as file:
        return len(file.read(1))
"""
EPILOGUE: Final = """
pathlib.Path(os.environ["TMPDIR"], "found").write_text(json.dumps(found))
"""
REFUSED: Final = {"EACCES", "EPERM"}


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    with running_pod(tmp_path_factory.mktemp("pod")) as running:
        yield running


def attempts(pod: Pod, code: str) -> dict[str, Any]:
    """Have the evaluator of one episode run `code`, and return what its attempts gave: a value, or an error's name."""
    client = pod.client()
    assert client.reset(TASK).is_legal, client.errors
    program = PROLOGUE + dedent(code) + EPILOGUE
    answer = f"(exec({program!r}, {{}}), ['editor'])[1]"
    pod.execute(f"cat > {ANSWER} <<'EOF_OF_ANSWER'\n{answer}\nEOF_OF_ANSWER\n")
    client.step("Thought: done.\nAction: finished(content='done')")
    assert client.evaluate() == 1.0, client.errors
    (left,) = pod.volume("run").glob("worker-*/tmp/found")
    found: dict[str, Any] = json.loads(left.read_text())
    return found


def test_the_env_server_cannot_be_read_traced_robbed_or_ended(pod: Pod) -> None:
    found = attempts(
        pod,
        """
        for name in ("environ", "mem", "maps"):
            attempt(name, lambda: content(f"/proc/1/{name}"))
        for name in ("fd", "root", "cwd"):
            attempt(name, lambda: os.listdir(f"/proc/1/{name}"))
        attempt("attach", lambda: call(101, 16, 1, 0, 0))
        attempt("write", lambda: open("/proc/1/mem", "r+b") and "open")
        held = os.pidfd_open(1)
        for number in range(3, 12):
            attempt(f"take {number}", lambda: call(438, held, number, 0))
        for name in ("SIGTERM", "SIGINT", "SIGSTOP", "SIGKILL", "SIGHUP"):
            attempt(name, lambda: os.kill(1, getattr(signal, name)))
        """,
    )
    assert set(found.values()) <= REFUSED, found
    assert httpx.get(f"{pod.url}/livez", timeout=10).is_success


def test_zygote_and_file_server_are_closed_to_a_runner(pod: Pod) -> None:
    found = attempts(
        pod,
        """
        words = {int(path.split("/")[2]): content_of for path in glob.glob("/proc/[0-9]*/cmdline")
                 if (content_of := open(path, "rb").read())}
        me = os.getpid()
        others = [pid for pid, text in words.items() if b"tasks/child" in text and pid != me]
        found["others"] = len(others)
        for pid in others:
            attempt(f"{pid} environ", lambda: content(f"/proc/{pid}/environ"))
            attempt(f"{pid} write", lambda: open(f"/proc/{pid}/mem", "r+b") and "open")
            attempt(f"{pid} attach", lambda: call(101, 16, pid, 0, 0))
            attempt(f"{pid} kill", lambda: os.kill(pid, signal.SIGKILL))
            attempt(f"{pid} take", lambda: call(438, os.pidfd_open(pid), 3, 0))
        """,
    )
    assert found.pop("others") == 2
    assert set(found.values()) <= REFUSED, found


def test_files_of_the_container_are_closed_and_the_workers_own_are_not(pod: Pod) -> None:
    closed = [
        "/", "/tmp", "/dev/shm", "/var", "/root", "/home", "/run", "/mnt", str(SYSTEM_CACHE), f"{SYSTEM_CACHE}/run",
        f"{SHARED}/episodes", f"{SHARED}/downloads", SHARED, CONTROL_FOLDER, str(CHECKOUT / "tests"),
    ]  # fmt: skip
    found = attempts(
        pod,
        f"""
        for folder in {closed!r}:
            attempt(folder, lambda: os.listdir(folder) and "listed")
            attempt(f"{{folder}} write", lambda: pathlib.Path(folder, "planted").write_text("x"))
        for file in ("/etc/shadow", "/dev/termination-log", "{CHECKOUT}/pyproject.toml"):
            attempt(file, lambda: content(file))
        attempt("venv", lambda: pathlib.Path(sys.prefix, "planted").write_text("x"))
        attempt("kept", lambda: os.listdir("../kept"))
        for name in ("HOME", "TMPDIR"):
            attempt(f"own {{name}}", lambda: pathlib.Path(os.environ[name], "mine").write_text("x"))
        attempt("own cwd", lambda: pathlib.Path("mine").write_text("x"))
        attempt("own move", lambda: os.rename("mine", os.environ["HOME"] + "/moved"))
        attempt("own program", lambda: subprocess.run(["file", "/usr/bin/env"], capture_output=True).returncode)
        attempt("own null", lambda: open("/dev/null", "w").write("x"))
        """,
    )
    own = {name: value for name, value in found.items() if name.startswith("own ")}
    assert own == {
        "own HOME": 1, "own TMPDIR": 1, "own cwd": 1, "own move": None, "own program": 0, "own null": 1
    }  # fmt: skip
    others = {name: value for name, value in found.items() if name not in own}
    assert set(others.values()) <= {*REFUSED, "EROFS", "ENOENT"}, others
    assert not list(pod.volume("cache").rglob("planted"))


def test_no_port_but_the_guests_and_the_webs_is_open(pod: Pod) -> None:
    found = attempts(
        pod,
        f"""
        def connect(port):
            with socket.create_connection(("127.0.0.1", port), 5):
                return "connected"
        for port in ({ENV_SERVER_PORT}, 22, 8080, 5900):
            attempt(f"connect {{port}}", lambda: connect(port))
        attempt("web", lambda: connect(80))
        for port in (0, {ENV_SERVER_PORT}, 9222):
            attempt(f"listen {{port}}", lambda: socket.create_server(("127.0.0.1", port)) and "listens")
        """,
    )
    assert found.pop("web") == "ECONNREFUSED"
    assert set(found.values()) <= REFUSED, found


def test_the_workers_environment_is_a_closed_list_and_no_process_shows_the_token(pod: Pod) -> None:
    found = attempts(
        pod,
        """
        attempt("environ", lambda: dict(os.environ))
        shown = b""
        for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
            try:
                shown += open(path, "rb").read()
            except OSError:
                pass
        attempt("shown", lambda: shown.decode("latin1"))
        """,
    )
    by_libraries = {"SDL_AUDIODRIVER", "PYGAME_HIDE_SUPPORT_PROMPT", "LD_LIBRARY_PATH"}  # as they are imported
    assert found["environ"].keys() - by_libraries == {
        "PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "LANG", "OPENAI_API_KEY",
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    }  # fmt: skip
    assert found["environ"]["OPENAI_API_KEY"] == SECRET
    assert TOKEN not in found["shown"]


def test_the_log_says_what_keeps_evaluators_in(pod: Pod) -> None:
    assert "evaluators run without a sandbox, behind Landlock " in pod.log("server")


def test_no_way_leads_around_the_walls(pod: Pod) -> None:
    sockets = [path for name in ("run", "desktop-control") for path in pod.volume(name).rglob("*") if path.is_socket()]
    assert any(path.name == "agent" for path in sockets)
    inside = [f"{SYSTEM_CACHE}/run/{path.relative_to(pod.volume('run'))}" for path in sockets if "/run/" in str(path)]
    found = attempts(
        pod,
        f"""
        def speak(path, kind):
            with socket.socket(socket.AF_UNIX, kind) as ours:
                ours.connect(path)
            return "connected"
        for path in {inside!r} + ["{CONTROL_FOLDER}/control"]:
            attempt(path, lambda: speak(path, socket.SOCK_STREAM))
            attempt(f"{{path}} packets", lambda: speak(path, socket.SOCK_SEQPACKET))
        attempt("abstract", lambda: speak("\\0guess", socket.SOCK_DGRAM))
        attempt("pair of datagrams", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) and "pair")
        def connect(protocol, kind=socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind, protocol) as ours:
                ours.connect(("127.0.0.1", {ENV_SERVER_PORT}))
            return "connected"
        for name, protocol in (("MPTCP", 262), ("SCTP", 132), ("SMC", 256)):
            attempt(name, lambda: connect(protocol))
        attempt("SCTP by kind", lambda: connect(0, socket.SOCK_SEQPACKET))
        def hasten(send):
            with socket.socket() as ours:
                return send(ours)
        address, fast = ("127.0.0.1", {ENV_SERVER_PORT}), 0x20000000
        attempt("fast open", lambda: hasten(lambda ours: ours.sendto(b"GET / HTTP/1.0", fast, address)))
        attempt("fast message", lambda: hasten(lambda ours: ours.sendmsg([b"GET / HTTP/1.0"], [], fast, address)))
        def deferred(ours):
            ours.setsockopt(socket.IPPROTO_TCP, 30, 1)
            return ours.connect(address)
        attempt("fast open deferred", lambda: hasten(deferred))
        ring = (ctypes.c_char * 120)()
        attempt("io_uring", lambda: call(425, 1, ctypes.addressof(ring)))
        attempt("x32", lambda: call(0x40000000 | 41, 1, 1, 0))
        attempt("limits", lambda: resource.prlimit(1, resource.RLIMIT_NOFILE))
        attempt("processors", lambda: os.sched_setaffinity(1, {{0}}))
        attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19))
        attempt("priority of all", lambda: os.setpriority(os.PRIO_USER, 0, 19))
        space = (ctypes.c_char * 64)()
        spaces = (ctypes.c_size_t * 2)(ctypes.addressof(space), 64)
        attempt("memory", lambda: call(310, 1, ctypes.addressof(spaces), 1, ctypes.addressof(spaces), 1, 0))
        attempt("own limits", lambda: resource.getrlimit(resource.RLIMIT_NOFILE) and "read")
        attempt("names", lambda: socket.getaddrinfo("localhost", 80) and "known")
        """,
    )
    assert (found.pop("own limits"), found.pop("names")) == ("read", "known")
    assert set(found.values()) <= REFUSED, found
