"""The one logging set-up of all deployables: a line to standard error, secrets redacted."""

import logging
import sys

from osworld_contract.redact import RedactingFilter

EPISODE_BEGINS = "Episode %s begins: task=%s"
"""What an env server says at each reset: the episode's id and the task's, without spaces. `osworld-env pool logs` reads
it."""

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def set_up_logging(level: str, secrets: tuple[str, ...] = ()) -> None:
    """Send every log record of this process at `level` or above to standard error, without `secrets`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    handler.addFilter(RedactingFilter(secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # its INFO lines show queries, and signed ones are secrets
