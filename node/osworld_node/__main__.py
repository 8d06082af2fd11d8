"""``python -m osworld_node``: reads the settings and runs the device plugin. Ends with 0, or with one sentence."""

import asyncio
import contextlib
import logging
import signal
import sys

from prometheus_client import start_http_server

from osworld_contract.logs import set_up_logging
from osworld_contract.settings import SettingsError
from osworld_node.metrics import NodeMetrics
from osworld_node.proof import Health
from osworld_node.service import run
from osworld_node.settings import load_settings

EXIT_USAGE = 2


def main() -> int:
    """Run until SIGTERM or SIGINT. Return the exit code."""
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USAGE
    set_up_logging("INFO")
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # one line for each change of a folder, otherwise
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # the first process of a container has no default of its own
    metrics = NodeMetrics()
    if settings.node_metrics_port:
        start_http_server(settings.node_metrics_port, registry=metrics.registry)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(settings, Health(settings.node_proof_failures), metrics))
    return 0


if __name__ == "__main__":
    sys.exit(main())
