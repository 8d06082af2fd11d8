"""``python -m osworld_envpod.drain``: a pod's preStop hook. Lets the env server of this machine end its episode.

It asks for a drain until that is granted, and ends. One that does not listen may be starting, and as the first process
of its container would not hear of SIGTERM yet: it is waited for, some time. It always ends with 0: a hook that fails
stops a pod no later.
"""

import argparse
import sys
import time
from enum import Enum, auto
from http import HTTPStatus
from typing import Final

import httpx

from osworld_contract.settings import SettingsError
from osworld_envpod.secrecy import keep_secrets
from osworld_envpod.settings import load_settings

ASK_AGAIN_S: Final = 1.0
"""Between two questions. An env server has no event for the end of an episode."""

CALL_TIMEOUT_S: Final = 10.0

START_S: Final = 30.0
"""How long an env server that does not listen is waited for. Measured: its imports take 2 s, 10 beside much work."""


class Answer(Enum):
    """What an env server says to a drain."""

    DRAINED = auto()
    BUSY = auto()
    ABSENT = auto()


def main() -> int:
    """Wait for the end of the episode under way, or for the deadline."""
    parser = argparse.ArgumentParser(prog="osworld_envpod.drain")
    parser.add_argument("--deadline-s", type=float, required=True, help="how long an episode may go on")
    parser.add_argument(
        "--start-s", type=float, default=START_S, help="how long one that does not listen is waited for"
    )
    given = parser.parse_args()
    began = time.monotonic()
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 0
    keep_secrets()  # it lives as long as the episode goes on, beside a task worker
    token = settings.token.get_secret_value() if settings.token else ""
    with httpx.Client(
        base_url=f"http://127.0.0.1:{settings.port}",
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=CALL_TIMEOUT_S,
        trust_env=False,
    ) as client:
        while (answer := _ask(client)) is not Answer.DRAINED:
            if time.monotonic() - began >= (given.start_s if answer is Answer.ABSENT else given.deadline_s):
                break
            time.sleep(ASK_AGAIN_S)
    return 0


def _ask(client: httpx.Client) -> Answer:
    """Ask once. A reply other than "busy" means that waiting is of no use."""
    try:
        reply = client.post("/drain")
    except httpx.ConnectError:
        return Answer.ABSENT
    except httpx.HTTPError:
        return Answer.BUSY
    return Answer.BUSY if reply.status_code == HTTPStatus.CONFLICT else Answer.DRAINED


if __name__ == "__main__":
    sys.exit(main())
