"""`osworld-env tunnel`: what ssh is asked, and what its words mean."""

from dataclasses import replace

import pytest

from osworld_env.errors import BadUsageError
from osworld_env.tunnel.legs import Leg, checked_target, unit_text
from osworld_env.tunnel.verdict import ending_of, is_up

REVERSE = Leg("me@cluster", True, "127.0.0.1", 15001, "127.0.0.1", 18082)


def test_the_tunnel_is_kept_alive_and_asks_nothing() -> None:
    argv = REVERSE.argv("/usr/bin/ssh")
    assert argv[-4:] == ("-R", "127.0.0.1:15001:127.0.0.1:18082", "--", "me@cluster")
    assert {"ServerAliveInterval=15", "ServerAliveCountMax=3", "ExitOnForwardFailure=yes", "BatchMode=yes"} <= set(argv)


def test_an_address_of_ipv6_is_bracketed() -> None:
    assert "[::1]:15001:127.0.0.1:18082" in replace(REVERSE, listen_host="::1").argv("ssh")


@pytest.mark.parametrize("text", ["me@10.0.0.1", "cluster", "ssh://me@cluster:2222", "me@[fd00::1]"])
def test_a_machine_is_taken_as_ssh_takes_it(text: str) -> None:
    assert checked_target(text) == text


@pytest.mark.parametrize("text", ["", "-oProxyCommand=id", "me@-oProxyCommand=id", "a b", "ssh://-x", "a;b"])
def test_an_option_in_the_place_of_a_machine_is_refused(text: str) -> None:
    with pytest.raises(BadUsageError):
        checked_target(text)


def test_a_forward_is_up_when_the_other_side_says_so() -> None:
    assert is_up(REVERSE, "debug1: remote forward success for: listen 127.0.0.1:15001, connect 127.0.0.1:18082")
    assert not is_up(REVERSE, "debug1: Local forwarding listening on 127.0.0.1 port 15001.")


@pytest.mark.parametrize(
    ("line", "sentence", "is_lasting"),
    [
        ("Error: remote port forwarding failed for listen port 15001", "port 15001 of me@cluster is taken", True),
        ("Host key verification failed.", "the host key of me@cluster is not known", True),
        ("me@cluster: Permission denied (publickey).", "refuses this user's keys", True),
        ("ssh: Could not resolve hostname cluster: Name or service not known", "the name of me@cluster", False),
        ("ssh: connect to host cluster port 22: Connection refused", "refuses connections", False),
        ("Timeout, server cluster not responding.", "does not answer", False),
        ("Connection to cluster closed by remote host.", "closed by remote host", False),
    ],
)
def test_an_end_is_one_sentence(line: str, sentence: str, is_lasting: bool) -> None:
    ending = ending_of(REVERSE, ["debug1: Permission denied, says no one", line])
    assert sentence in ending.sentence
    assert ending.is_lasting is is_lasting


def test_a_unit_starts_the_same_command_and_quotes_it() -> None:
    text = unit_text(("/opt/my env/python", "-m", "osworld_env", "tunnel", "me@host", "50%", "$HOME"), "me@host")
    assert 'ExecStart="/opt/my env/python" -m osworld_env tunnel me@host 50%% "$$HOME"\n' in text
    assert "Restart=always" in text
