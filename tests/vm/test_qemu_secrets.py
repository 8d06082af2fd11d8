"""The secrets of an env server on virtual machines: neither the machine's process nor its guest has any of them."""

from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest

from desktop_probe import desktop_processes
from osworld_env.ports import free_port
from osworld_envpod.desktops.qemu.argv import QEMU
from server_process import ServerProcess, clean_environment
from vm_fixtures import START_DEADLINE_S, TEST_TIMEOUT_S

pytestmark = pytest.mark.timeout(TEST_TIMEOUT_S)

CALL_DEADLINE_S: Final = 240.0
TOKEN: Final = "vm-s3cret-token"
KEY: Final = "vm-s3cret-key"
PROXY: Final = "http://vm-s3cret-user@127.0.0.1:9"
SEARCH: Final = """
mkdir -p ~/marked && echo vm-s3cre''t-marker > ~/marked/marker
echo password | sudo -S sh -c "
grep -alsE 'vm-s3cre[t]' /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/cmdline /sys/class/dmi/id/*
grep -alsrE 'vm-s3cre[t]' /sys/firmware/qemu_fw_cfg /home /root /tmp /run /etc /var /opt
" 2> /dev/null
"""
"""Prints where in a guest a secret is: in the marker of its own alone. Neither its text nor its process has one."""


def test_a_guest_and_its_machine_hold_no_secret_of_the_env_server(tmp_path: Path) -> None:
    port = free_port()
    variables = {
        "PROVIDER": "qemu", "OSWORLD_PORT": str(port), "OSWORLD_TOKEN": TOKEN, "OPENAI_API_KEY": KEY,
        "OSWORLD_WORKER_HTTPS_PROXY": PROXY, "OSWORLD_WORKER_SANDBOX": "0", "OSWORLD_LOG_LEVEL": "DEBUG",
    }  # fmt: skip
    with ServerProcess("osworld_envpod", tmp_path, clean_environment(**variables), port) as server:
        server.wait_ready(deadline_s=START_DEADLINE_S)
        with httpx.Client(base_url=server.url, auth=("job", TOKEN), timeout=CALL_DEADLINE_S) as client:
            reset = client.post("/env/reset", json={"task_config": _searching()})
            assert reset.is_success, reset.text[:1000]
            finish = {"prediction": "Thought: done.\nAction: finished(content='done')"}
            assert client.post("/env/step", json=finish).json()["is_done"]
            assert client.post("/env/evaluate", json={}).json() == 1.0, server.log[-3000:]
            state = client.get("/state").text
        machines = desktop_processes(server.pid, QEMU)
        assert machines
        shown = [state, server.log, *(_shown(machine) for machine in machines)]
    assert not [text for text in shown if "vm-s3cret" in text]


def _searching() -> dict[str, Any]:
    """Return a task with the score 1.0 where the search in the guest finds its own marker and nothing else."""
    return {
        "id": "secrets",
        "instruction": "test",
        "config": [],
        "evaluator": {
            "func": "exact_match",
            "result": {"type": "vm_command_line", "command": SEARCH, "shell": True},
            "expected": {"type": "rule", "rules": {"expected": "/home/user/marked/marker\n"}},
        },
    }


def _shown(process: psutil.Process) -> str:
    """Return what the kernel shows of a process: its command line and its environment."""
    return f"{process.cmdline()} {process.environ()}"
