"""``python -m osworld_envpod.drain``: a pod's preStop hook. Lets the env server of this machine end its episode.

It asks for a drain until that is granted, and ends. An env server that is not there has nothing to end. It always ends
with 0: a hook that fails stops a pod no later.
"""

import argparse
import sys
import time
from http import HTTPStatus
from typing import Final

import httpx

from osworld_contract.settings import SettingsError
from osworld_envpod.settings import load_settings

ASK_AGAIN_S: Final = 1.0
"""Between two questions. An env server has no event for the end of an episode."""

CALL_TIMEOUT_S: Final = 10.0


def main() -> int:
    """Wait for the end of the episode under way, or for the deadline."""
    parser = argparse.ArgumentParser(prog="osworld_envpod.drain")
    parser.add_argument("--deadline-s", type=float, required=True, help="how long an episode may go on")
    deadline = time.monotonic() + parser.parse_args().deadline_s
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 0
    token = settings.token.get_secret_value() if settings.token else ""
    with httpx.Client(
        base_url=f"http://127.0.0.1:{settings.port}",
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=CALL_TIMEOUT_S,
        trust_env=False,
    ) as client:
        while not _is_drained(client) and time.monotonic() < deadline:
            time.sleep(ASK_AGAIN_S)
    return 0


def _is_drained(client: httpx.Client) -> bool:
    """Ask once. A reply other than "busy" means that waiting is of no use."""
    try:
        reply = client.post("/drain")
    except httpx.ConnectError:
        return True
    except httpx.HTTPError:
        return False
    return reply.status_code != HTTPStatus.CONFLICT


if __name__ == "__main__":
    sys.exit(main())
