"""What ssh's words mean: whether a forward is there, and why a connection ended, in one sentence. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from osworld_env.tunnel.legs import Leg

_REMOTE_UP: Final = re.compile(r"debug1: remote forward success for: listen ")
_LOCAL_UP: Final = re.compile(r"debug1: Local forwarding listening on ")
_DEBUG: Final = "debug1: "


@dataclass(frozen=True)
class Ending:
    """Why a connection ended, or did not begin."""

    sentence: str
    is_lasting: bool
    """Whether trying again is of no use until a person has done something."""

    is_port: bool = False
    """Whether the port to listen on is taken: lasting at the first try, while later it is the lost connection's own,
    which the other side's sshd lets go when it notices."""


_ENDINGS: Final[tuple[tuple[tuple[str, ...], str, bool, bool], ...]] = (
    (
        ("REMOTE HOST IDENTIFICATION HAS CHANGED",),
        "the host key of {host} is not the one known here: if that machine was made anew, forget the old key with "
        "ssh-keygen -R HOST; if not, somebody may be listening in between",
        True,
        False,
    ),
    (
        ("Host key verification failed", "host key is known for"),
        "the host key of {host} is not known here: run `ssh {host} true` once, compare the fingerprint, and say yes",
        True,
        False,
    ),
    (
        ("Permission denied", "Too many authentication failures"),
        "{host} refuses this user's keys: `ssh -o BatchMode=yes {host} true` must work without a password "
        "(ssh-copy-id {host}, or an agent with the key)",
        True,
        False,
    ),
    (
        ("remote port forwarding failed", "Address already in use", "cannot listen to port"),
        "port {port} of {listener} is taken, or may not be listened on: end what listens there, or choose another",
        True,
        True,
    ),
    (("Bad configuration option", "terminating,"), "ssh refuses its configuration: {said}", True, False),
    (("Could not resolve hostname",), "the name of {host} is not known", False, False),
    (("Connection refused",), "{host} refuses connections: no sshd listens there", False, False),
    (("timed out", "not responding"), "{host} does not answer", False, False),
)
"""What ssh says, the sentence for it, whether it lasts, whether it is the port. The first that fits counts. Lost
connections last as little as a laptop's sleep. Source: OpenSSH 9.2, by trying; `LC_ALL=C`."""


def is_up(leg: Leg, line: str) -> bool:
    """Return whether `line` of ssh's says that the forward of `leg` is there."""
    return bool((_REMOTE_UP if leg.is_reverse else _LOCAL_UP).match(line))


def words_of(lines: Sequence[str]) -> tuple[str, ...]:
    """Return those of ssh's `lines` that are not its debugging."""
    return tuple(line for line in lines if line.strip() and not line.startswith((_DEBUG, "OpenSSH_")))


def ending_of(leg: Leg, lines: Sequence[str]) -> Ending:
    """Return why ssh, which said `lines`, ended."""
    text = "\n".join(words_of(lines))
    said = text.rstrip().rpartition("\n")[2] or "ssh says nothing"
    for signs, sentence, is_lasting, is_port in _ENDINGS:
        if any(sign in text for sign in signs):
            words = sentence.format(host=leg.target, port=leg.listen_port, listener=leg.listener, said=said)
            return Ending(words, is_lasting, is_port)
    return Ending(f"the connection with {leg.target} ended: {said}", is_lasting=False)
