"""The tests' own look into a running env server's desktop, past the trainer's wire."""

import json

import httpx
import psutil

from process_looks import words_of


def guest_url(server_pid: int) -> str:
    """Return where the guest agent of this env server is reached by TCP: the port that its relay listens on."""
    listening = [
        connection.laddr.port
        for connection in psutil.Process(server_pid).net_connections("tcp4")
        if connection.status == psutil.CONN_LISTEN
    ]
    for port in listening:
        url = f"http://127.0.0.1:{port}"
        try:
            if "boot_id" in httpx.get(url + "/agent", timeout=5).text:
                return url
        except httpx.HTTPError:
            continue
    raise AssertionError(f"no guest agent among the ports {listening} of process {server_pid}")


def guest_execute(server_pid: int, command: str) -> str:
    """Run `command` in the desktop's shell and return what it printed."""
    body = {"command": ["bash", "-c", command], "shell": False}
    reply = httpx.post(guest_url(server_pid) + "/execute", json=body, timeout=60)
    return str(json.loads(reply.content)["output"])


def desktop_processes(server_pid: int, name: str) -> list[psutil.Process]:
    """Return the processes below the env server whose command line has `name` in it, youngest last."""
    found = []
    for process in psutil.Process(server_pid).children(recursive=True):
        if name in words_of(process):
            found.append(process)
    return sorted(found, key=lambda process: process.create_time())
