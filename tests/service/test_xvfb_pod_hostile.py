"""What the agent's programs try against the pod around them: its PID 1, the control, the env server, the next episode.

They run as the desktop's user inside its container, as everything does that a model has typed.
"""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import pytest

from osworld_contract.desktop_control import CONTROL_FOLDER
from pod_rig import CHECKOUT, END_DEADLINE_S, SECRET, TOKEN, Pod, running_pod
from tasks_of import INFEASIBLE, task_config
from waiting import wait_until

PROCESSES_MAX = 400
PROLOGUE = """
import ctypes, errno, json, os, resource, signal, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
found = {}
def attempt(name, act):
    try:
        found[name] = repr(act())
    except OSError as error:
        found[name] = errno.errorcode.get(error.errno, str(error))
def call(function, *arguments):
    ctypes.set_errno(0)
    result = function(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), "")
    return result
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    with running_pod(tmp_path_factory.mktemp("pod"), processes_max=PROCESSES_MAX) as running:
        yield running


@pytest.fixture
def pod(shared: Pod) -> Pod:
    """The pod at the begin of an episode."""
    begin(shared)
    return shared


@pytest.fixture
def own_pod(tmp_path: Path) -> Iterator[Pod]:
    """A pod for a test that breaks it."""
    with running_pod(tmp_path) as running:
        yield running


def begin(pod: Pod) -> None:
    client = pod.client()
    assert client.reset(task_config(INFEASIBLE[0])).is_legal, client.errors


def attempts(pod: Pod, code: str) -> dict[str, str]:
    """Run Python `code` in the desktop and return what its attempts gave: a value, or an error's name."""
    program = PROLOGUE + dedent(code) + "\nprint(json.dumps(found))"
    output = pod.execute(f"/usr/bin/python3 - <<'EOF_OF_PROGRAM'\n{program}\nEOF_OF_PROGRAM\n")
    assert output, "the program itself failed"
    found: dict[str, str] = json.loads(output)
    return found


def test_nobody_else_connects_to_the_control(pod: Pod) -> None:
    assert pod.execute(f"ls -A {CONTROL_FOLDER}; touch {CONTROL_FOLDER}/control && echo made") == ""
    found = attempts(
        pod,
        f"""
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        attempt("connect", lambda: control.connect("{CONTROL_FOLDER}/control"))
        attempt("listen", lambda: socket.socket(socket.AF_UNIX).bind("{CONTROL_FOLDER}/control"))
        """,
    )
    assert found == {"connect": "ENOENT", "listen": "EROFS"}


def test_pid_1_cannot_be_signalled_traced_or_robbed(pod: Pod) -> None:
    pid_1 = pod.processes("desktop")[0]
    found = attempts(
        pod,
        """
        for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGSTOP", "SIGHUP", "SIGABRT", "SIGSEGV", "SIGUSR1", "SIGPIPE"):
            attempt(name, lambda: os.kill(1, getattr(signal, name)))
        # A signal whose sender says that it is nobody of this namespace.
        made_up = struct.pack("iiiiii", signal.SIGTERM, 0, -1, 0, 0, 0).ljust(128, bytes(1))
        attempt("made up", lambda: call(libc.syscall, 129, 1, signal.SIGTERM, made_up))
        claimed = struct.pack("iiiiii", signal.SIGTERM, 0, 0, 0, 0, 0).ljust(128, bytes(1))
        attempt("claimed", lambda: call(libc.syscall, 129, 1, signal.SIGTERM, claimed))
        attempt("attach", lambda: call(libc.ptrace, 16, 1, 0, 0))
        attempt("descriptors", lambda: os.listdir("/proc/1/fd"))
        attempt("memory", lambda: open("/proc/1/mem", "rb"))
        attempt("environment", lambda: open("/proc/1/environ", "rb").read())
        attempt("score", lambda: open("/proc/1/oom_score_adj", "w").write("1000"))
        attempt("root", lambda: os.listdir("/proc/1/root"))
        held = os.pidfd_open(1)
        for number in range(3, 12):
            attempt(f"take {number}", lambda: call(libc.syscall, 438, held, number, 0))
        """,
    )
    signals = {name: result for name, result in found.items() if name.startswith("SIG") or name == "made up"}
    assert set(signals.values()) <= {"None", "0"}, "sent, and nothing comes of it"
    others = {name: result for name, result in found.items() if name not in signals}
    assert set(others.values()) <= {"EPERM", "EACCES"}, others
    begin(pod)
    assert pod.processes("desktop")[0] == pid_1


@pytest.mark.parametrize(
    "code",
    [
        "resource.prlimit(1, resource.RLIMIT_NOFILE, (64, 64))",
        "resource.prlimit(1, resource.RLIMIT_AS, (1 << 30, 1 << 40))",
        "os.setpriority(os.PRIO_PROCESS, 1, 19)",
        "os.sched_setscheduler(1, os.SCHED_BATCH, os.sched_param(0))",
        "resource.prlimit(1, resource.RLIMIT_CPU, (0, 0))",
    ],
    ids=["descriptors", "memory", "priority", "scheduler", "processor time"],
)
def test_a_pid_1_that_was_tampered_with_is_replaced_by_a_fresh_container(own_pod: Pod, code: str) -> None:
    client = own_pod.client()
    assert client.reset(task_config(INFEASIBLE[0])).is_legal
    assert attempts(own_pod, f'attempt("tamper", lambda: {code})')["tamper"][:1] in "N("
    with ThreadPoolExecutor(1) as threads:
        resetting = threads.submit(client.reset, task_config(INFEASIBLE[0]))
        own_pod.await_end("desktop")
        own_pod.start("desktop")
        assert resetting.result().is_legal
    limits = own_pod.execute("ulimit -Hn; ulimit -v; nice; chrt -p $$ | head -1")
    assert limits.split()[1:3] == ["unlimited", "0"]
    assert int(limits.split()[0]) > 64
    assert "SCHED_OTHER" in limits


def test_processors_that_were_taken_away_are_given_back(pod: Pod) -> None:
    before = pod.execute("nproc")
    assert attempts(pod, 'attempt("tamper", lambda: os.sched_setaffinity(1, {0}))') == {"tamper": "None"}
    begin(pod)
    assert pod.execute("nproc") == before


SURVIVORS = """
setsid -f bash -c 'trap "" TERM HUP INT; while :; do sleep 9991; done' > /dev/null 2>&1
setsid -f bash -c 'setsid -f bash -c "while :; do sleep 0.05; done"' > /dev/null 2>&1
setsid -f sleep 9992 > /dev/null 2>&1; pkill -STOP -x -f 'sleep 9992'
setsid -f bash -c 'while :; do setsid -f sleep 99; sleep 0.1; done' > /dev/null 2>&1
setsid -f /usr/bin/python3 -c 'while os.fork() == 0 or os._exit(0): time.sleep(0.01)' > /dev/null 2>&1
""".replace("-c 'while os", "-c 'import os, time\nwhile os")
"""One that ignores signals, one of another session, a stopped one, one that starts more, one that is always another."""


def test_no_process_outlives_a_reset(pod: Pod) -> None:
    pod.execute(SURVIVORS)
    wait_until(lambda: pod.execute("pgrep -c sleep").strip() not in {"0", "1", "2", "3", "4"}, 20, "survivors")
    before = {process.pid for process in pod.processes("desktop")[1:]}
    begin(pod)
    assert not before & {process.pid for process in pod.processes("desktop")[1:]}
    assert pod.execute("pgrep -a sleep; pgrep -a -f 'os[.]fork|while [:]'") == ""


BOMB = "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(1)"


def test_a_fork_bomb_stays_within_its_bound_and_ends_with_the_episode(pod: Pod) -> None:
    pod.execute(f"setsid -f /usr/bin/python3 -c '{BOMB}' > /dev/null 2>&1")
    wait_until(lambda: len(pod.processes("desktop")) > PROCESSES_MAX // 2, 30, "a fork bomb")
    assert len(pod.processes("desktop")) <= PROCESSES_MAX + 1
    begin(pod)
    assert len(pod.processes("desktop")) < 40, "a desktop's own"


def test_folders_that_are_deep_closed_or_full_are_emptied(pod: Pod) -> None:
    found = attempts(
        pod,
        """
        os.chdir("/tmp")
        for _ in range(3000):
            os.mkdir("d"); os.chdir("d")
        open("file", "w").write("x"); os.chmod(".", 0)
        os.mkdir("/tmp/closed"); open("/tmp/closed/file", "w").write("x"); os.chmod("/tmp/closed", 0)
        os.mkfifo("/run/pipe"); os.symlink("/usr", "/var/tmp/link"); os.symlink("/home/user", "/home/user/loop")
        open(b"/home/user/-rf \\n \\xff", "w").close()
        for number in range(20_000):
            open(f"/dev/shm/{number}", "w").close()
        attempt("termination log", lambda: open("/dev/termination-log", "wb").write(bytes(1 << 20)))
        attempt("largest file", lambda: resource.getrlimit(resource.RLIMIT_FSIZE)[1] <= 8 << 30)
        """,
    )
    assert found == {"termination log": str(1 << 20), "largest file": "True"}
    begin(pod)
    assert pod.execute(
        "ls -A /dev/shm /var/tmp; ls -A /tmp; ls /home/user | wc -l; stat -c %s /dev/termination-log"
    ) == ("/dev/shm:\n\n/var/tmp:\n.ICE-unix\n.X11-unix\n8\n0\n")


def test_the_env_server_answers_nothing_without_its_token(pod: Pod) -> None:
    found = attempts(
        pod,
        """
        import urllib.error, urllib.request
        def ask(path, method, headers):
            request = urllib.request.Request(f"http://127.0.0.1:18082/{path}", method=method, headers=headers)
            try:
                return urllib.request.urlopen(request, timeout=10).status
            except urllib.error.HTTPError as error:
                return error.code
        for path in ("state", "metrics", "screen", "drain", "env/history", "env/reset", "env/step", "env/evaluate"):
            for headers in ({}, {"Authorization": "Bearer guess"}):
                attempt(f"{path} {bool(headers)}", lambda: ask(path, "POST" if "env/" in path else "GET", headers))
        """,
    )
    assert set(found.values()) == {"401"}, found


def test_nothing_of_the_env_servers_container_is_seen(pod: Pod) -> None:
    script = f"""
    env; cat /proc/[0-9]*/environ; cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o -e '[o]sworld_envpod'
    ls -d {CHECKOUT} /var/cache/osworld-env /root; ls /run/secrets /var/run/secrets
    """
    output = pod.execute(script)
    for word in (TOKEN, SECRET, "osworld_envpod", "/var/cache", str(CHECKOUT), "TOKEN", "OPENAI"):
        assert word not in output
    pids = {int(pid) for pid in pod.execute("ls /proc | grep -x '[0-9]*'").split()}
    assert 1 in pids
    assert all(process.uids().real == 1000 for process in pod.processes("desktop"))


def test_the_port_of_an_env_server_that_was_killed_cannot_be_taken(own_pod: Pod) -> None:
    begin(own_pod)
    pid_1, *_ = own_pod.processes("desktop")
    pid_1.suspend()  # so that it is late: the agent's programs live longer than any real one lets them
    try:
        own_pod.kill("server")
        found = attempts(
            own_pod,
            """
            for host in ("127.0.0.1", "0.0.0.0"):
                reuse = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)
                for options in ((), reuse[:1], reuse[1:], reuse):
                    taken = socket.socket()
                    for option in options:
                        taken.setsockopt(socket.SOL_SOCKET, option, 1)
                    attempt(f"{host} {options}", lambda: taken.bind((host, 18082)))
            """,
        )
        assert len(found) == 8
        assert set(found.values()) == {"EADDRINUSE"}, found
    finally:
        pid_1.send_signal(signal.SIGCONT)
    wait_until(lambda: own_pod.processes("desktop") == [pid_1], END_DEADLINE_S, "an empty desktop")
    own_pod.start("server")
    own_pod.wait_ready()
    begin(own_pod)
