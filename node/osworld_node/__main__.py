"""``python -m osworld_node``: reads the settings and runs the device plugin. Ends with 0, or with one sentence."""

import asyncio
import contextlib
import sys

from osworld_contract.logs import set_up_logging
from osworld_contract.settings import SettingsError
from osworld_node.proof import Health
from osworld_node.service import run
from osworld_node.settings import load_settings

EXIT_USAGE = 2


def main() -> int:
    """Run until interrupted. Return the exit code."""
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USAGE
    set_up_logging("INFO")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(settings, Health(settings.node_proof_failures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
