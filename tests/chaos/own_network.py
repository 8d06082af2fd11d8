"""A network of the test's own, in which connections can be cut as a broken link cuts them: no packet, and no reset.

Made as root and by any user alike; who is not root is root of this network alone.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

_AS_USER: Final = ("--user", "--map-current-user", "--keep-caps")

POWERLESS: Final = () if os.geteuid() == 0 else ("setpriv", "--ambient-caps", "-all", "--inh-caps", "-all")
"""Command that starts another one without the powers over this network: bubblewrap refuses to start with them."""


def in_own_network(*command: str) -> list[str]:
    """Return the command that runs `command` in a network of its own; `light` it first."""
    return ["unshare", "--net", *(() if os.geteuid() == 0 else _AS_USER), *command]


def play_in_own_network(plays: Path, folder: Path, deadline_s: float, *options: str) -> None:
    """Have the tests of the module `plays` pass in a network of its own: all that they need runs inside.

    `folder` is where they may write.
    """
    argv = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--basetemp", str(folder / "in"), *options)
    inside = subprocess.run(
        in_own_network(*argv, str(plays)),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=deadline_s, check=False,
    )  # fmt: skip
    logger.info("%s", inside.stdout)
    assert inside.returncode == 0, inside.stdout[-10_000:]


def light() -> None:
    """Switch the loopback on.

    Raises:
        RuntimeError: Something is on already: this is the network of others, in which nothing may be cut.
    """
    links = subprocess.run(["ip", "-o", "link", "show", "up"], check=True, capture_output=True, text=True, timeout=10)
    if links.stdout:
        raise RuntimeError(f"no network of the test's own: {links.stdout.strip()}")
    _switch("up")


@contextmanager
def no_network() -> Iterator[None]:
    """Let no packet through at all; who is connected is not told."""
    _switch("down")
    try:
        yield
    finally:
        _switch("up")


def _switch(to: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", to], check=True, timeout=10)


@contextmanager
def cut_off(port: int) -> Iterator[None]:
    """Let no packet through from or to `port` of this machine: whoever listens there lives and works on."""
    rules = [("INPUT", "--protocol", "tcp", end, str(port), "--jump", "DROP") for end in ("--dport", "--sport")]
    done = []
    try:
        for rule in rules:
            _iptables("--insert", *rule)
            done.append(rule)
        yield
    finally:
        for rule in done:
            _iptables("--delete", *rule)


def _iptables(*arguments: str) -> None:
    subprocess.run(["iptables", "--wait", *arguments], check=True, timeout=10)
