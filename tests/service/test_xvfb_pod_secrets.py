"""The secrets of an env pod: what a process of the env server's own user finds of them, from outside of the server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any, Final

import httpx
import pytest

from osworld_operator.pod_parts import SERVER_UID
from pod_rig import SECRET, TOKEN, Pod, running_pod
from process_looks import environment_of, name_of, words_of
from waiting import wait_until

LOOK: Final = """
import ctypes, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
for name in ("environ", "mem", "maps", "auxv"):
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            file.read(1 if name != "mem" else 0)
        print(name)
    except OSError:
        pass
PTRACE_SEIZE = 0x4206
if libc.ptrace(PTRACE_SEIZE, pid, 0, 0) == 0:
    print("ptrace")
"""
"""Prints what of a process can be read or held. Seizing does not stop it, and the end of this one lets it go."""


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    with running_pod(tmp_path_factory.mktemp("pod")) as running:
        yield running


def seen_by_its_user(pid: int) -> list[str]:
    """Return what another process of the same user, without any right beyond, sees of `pid`."""
    command = [sys.executable, "-c", dedent(LOOK), str(pid)]
    if os.geteuid() == 0:
        uid = SERVER_UID
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--bounding-set=-all", *command]
        command[command.index(sys.executable)] = "/usr/bin/python3"  # the checkout's may be where only root enters
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd="/", check=True)
    return done.stdout.split()


def test_the_env_server_is_closed_to_other_processes_of_its_user(pod: Pod) -> None:
    server, *others = pod.processes("server")
    assert server.uids().real != 0
    assert seen_by_its_user(server.pid) == []
    worker = next(process for process in others if "worker" in words_of(process).split())
    assert "environ" in seen_by_its_user(worker.pid), "the probe sees what is open"


def test_no_environment_of_the_pod_holds_the_token(pod: Pod) -> None:
    holding = [
        name_of(process)
        for name in ("server", "desktop")
        for process in pod.processes(name)
        if TOKEN.encode() in environment_of(process)
    ]
    assert holding == []


def test_the_evaluators_secret_is_in_the_worker_alone(pod: Pod) -> None:
    server, *others = pod.processes("server")
    holders = [
        process
        for process in (server, *others, *pod.processes("desktop"))
        if SECRET.encode() in environment_of(process)
    ]
    assert holders
    assert all("osworld_envpod/tasks/child" in words_of(process) for process in holders)


SHOUTING: Final = """
import os, sys
key = os.environ["OPENAI_API_KEY"]
print(key, file=sys.stderr, flush=True)
raise RuntimeError("shown: " + key)
"""
"""What an evaluator may do by mistake: a secret in its output, and in the error that becomes a fault."""


def shouting_task() -> dict[str, Any]:
    """Return a task whose evaluator shows the worker's secret."""
    answer = f"exec({SHOUTING!r})"
    return {
        "id": "shouting",
        "instruction": "test",
        "config": [{"type": "execute", "parameters": {"command": ["/usr/bin/python3", "-c", "print('set up')"]}}],
        "evaluator": {
            "func": "check_gnome_favorite_apps",
            "result": {"type": "vm_command_line", "command": ["/usr/bin/python3", "-c", f"print({answer!r})"]},
            "expected": {"type": "rule", "rules": {"expected": []}},
        },
    }


def test_secrets_are_in_no_reply_no_log_no_record_and_no_file(pod: Pod) -> None:
    auth = ("job", TOKEN)
    with httpx.Client(base_url=pod.url, auth=auth, timeout=60) as client:
        replies = [client.post("/env/reset", json={"task_config": shouting_task()})]
        replies.append(
            client.post("/env/step", json={"prediction": "Thought: done.\nAction: finished(content='done')"})
        )
        replies.append(client.post("/env/evaluate", json={}))
        assert "shown: " in replies[-1].text, "the evaluator has failed as it was to"
        replies += [client.get(path) for path in ("/health", "/state", "/metrics", "/env/history", "/openapi.json")]
    wait_until(lambda: "shown: " in pod.log("server"), 30, "the fault's line in the log")
    shown = {
        **{f"reply {reply.url.path}": reply.text for reply in replies},
        **{f"log of {name}": pod.log(name) for name in ("server", "desktop")},
        "termination message": pod.volume("termination-log").read_text(),
    }
    assert {where for where, text in shown.items() if TOKEN in text or SECRET in text} == set()
    folders = [path for path in pod.volume("").iterdir() if path.is_dir()]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any("episodes" in path.parts for path in files), "there is a record"
    assert [path for path in files if _holds(path, TOKEN, SECRET)] == []


def _holds(path: Path, *words: str) -> bool:
    content = path.read_bytes()
    return any(word.encode() in content for word in words)
