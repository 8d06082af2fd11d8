"""``python -m osworld_envpod``: reads the settings and runs the env server. Ends with 0, or with one sentence."""

import logging
import signal
import socket
import sys

import uvicorn

from osworld_contract.logs import set_up_logging
from osworld_contract.settings import SettingsError
from osworld_envpod.app import EXIT_USAGE, create_app
from osworld_envpod.secrecy import keep_secrets
from osworld_envpod.settings import EnvServerSettings, load_settings

logger = logging.getLogger(__name__)

EXIT_FAILURE = 1


def main() -> int:
    """Run until SIGINT or SIGTERM. Return the exit code."""
    try:
        settings = load_settings()
        settings.refuse_open_door()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USAGE
    keep_secrets()
    set_up_logging(settings.log_level.value, settings.secrets)
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    try:
        listener = _listen(settings)
    except OSError as error:
        sys.stderr.write(f"OSWORLD_PORT: cannot listen on {settings.host}:{settings.port}: {error.strerror}\n")
        return EXIT_FAILURE
    return _serve(settings, listener)


def _listen(settings: EnvServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if settings.desktop_control is not None:  # the desktop's container holds the port with it
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((settings.host, settings.port))
    return listener


def _serve(settings: EnvServerSettings, listener: socket.socket) -> int:
    fatal: list[str] = []

    def stop(sentence: str) -> None:
        fatal.append(sentence)
        server.should_exit = True

    config = uvicorn.Config(
        create_app(settings, stop),
        log_config=None,
        timeout_graceful_shutdown=int(settings.step_timeout_s),
        lifespan="on",
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn stops gracefully and then raises the signal again for whoever else listens: a stop is no failure.
        signal.signal(number, lambda *_: sys.exit(0))
    with listener:
        server.run(sockets=[listener])
    if fatal:
        sys.stderr.write(f"{fatal[0]}\n")
        return EXIT_FAILURE
    return 0


if __name__ == "__main__":
    sys.exit(main())
