"""What a tunnel asks of ssh: its command lines. Pure: nothing is started or opened here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osworld_env.errors import BadUsageError

LOOPBACK: Final = "127.0.0.1"

ALIVE_EVERY_S: Final = 15
ALIVE_MISSES: Final = 3
"""With `ALIVE_EVERY_S`: a peer that has gone is noticed within 45 s, and no NAT (minutes) forgets the connection."""

CONNECT_TIMEOUT_S: Final = 15
"""A guess with room: a handshake across the world takes two seconds."""

_TARGET: Final = re.compile(r"(ssh://)?([^\s@/-][^\s@/]*@)?[\w.:\[\]][\w.:\[\]%-]*")

_OPTIONS: Final = (
    ("BatchMode", "yes"),  # a question that nobody answers would hold a unit, or a reconnect at night, for ever
    ("ExitOnForwardFailure", "yes"),  # else ssh stays, connected and of no use
    ("ServerAliveInterval", str(ALIVE_EVERY_S)),
    ("ServerAliveCountMax", str(ALIVE_MISSES)),
    ("ConnectTimeout", str(CONNECT_TIMEOUT_S)),
    ("TCPKeepAlive", "yes"),
    ("ControlMaster", "no"),  # with a shared connection, ssh hands the forward over and its end says nothing
    ("ControlPath", "none"),
    ("ClearAllForwardings", "no"),
    ("LogLevel", "DEBUG1"),  # the only place where ssh says that a forward is there
)


@dataclass(frozen=True)
class Leg:
    """One ssh connection of a tunnel, to `target`, that forwards one port."""

    target: str
    """As ssh takes it: ``[USER@]HOST``, a Host of ssh's configuration, or ``ssh://USER@HOST:PORT``."""

    is_reverse: bool
    """Whether `target` listens (-R), or this machine does (-L)."""

    listen_host: str
    listen_port: int
    to_host: str
    to_port: int

    @property
    def listener(self) -> str:
        """Return the machine that listens, in words."""
        return self.target if self.is_reverse else "this machine"

    def argv(self, ssh: str, ssh_config: Path | None = None) -> tuple[str, ...]:
        """Return the command line of `ssh`, the program's path."""
        options = [part for name, value in _OPTIONS for part in ("-o", f"{name}={value}")]
        config = [] if ssh_config is None else ["-F", str(ssh_config)]
        flag = "-R" if self.is_reverse else "-L"
        forward = f"{_bracketed(self.listen_host)}:{self.listen_port}:{_bracketed(self.to_host)}:{self.to_port}"
        return (ssh, "-N", "-T", *config, *options, flag, forward, "--", self.target)


def checked_target(text: str) -> str:
    """Return `text` if ssh takes it as a machine.

    Raises:
        BadUsageError: It is none, or would be read as an option of ssh.
    """
    if not _TARGET.fullmatch(text):
        raise BadUsageError(f"{text!r} is no [USER@]HOST, nor ssh://[USER@]HOST[:PORT]")
    return text


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def unit_text(command: Sequence[str], target: str) -> str:
    """Return a systemd user unit that runs `command`, the tunnel to `target`, and starts it again where it ends."""
    return f"""\
[Unit]
Description=osworld-env tunnel to {_plain(target)}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={" ".join(_quoted(word) for word in command)}
Restart=always
RestartSec=10

[Install]
WantedBy=default.target
"""


def _plain(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """Return `word` as systemd reads it back. Source: systemd.service(5), Command lines; systemd.syntax(7), Quoting."""
    escaped = _plain(word).replace("$", "$$").replace("\\", "\\\\").replace('"', '\\"')
    return escaped if re.fullmatch(r"[\w@%+=:,./\[\]-]+", escaped) else f'"{escaped}"'
