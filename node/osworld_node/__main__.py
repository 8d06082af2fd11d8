"""``python -m osworld_node``."""

import asyncio
import contextlib
import logging

from osworld_node.proof import Health
from osworld_node.service import run
from osworld_node.settings import NodeSettings


def main() -> None:
    """Run the plugin until it is interrupted."""
    logging.basicConfig(level=logging.INFO)
    settings = NodeSettings()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(settings, Health(settings.node_proof_failures)))


if __name__ == "__main__":
    main()
