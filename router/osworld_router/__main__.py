"""``python -m osworld_router``: read the settings, set up logging, serve.

Exit codes: 0 after a stop that was asked for, 1 where the router cannot start, 2 for wrong settings.
"""

import argparse
import asyncio
import logging
import sys
from typing import Final

import uvloop

from osworld_contract.logs import set_up_logging
from osworld_contract.settings import SettingsError
from osworld_router.errors import StartError
from osworld_router.server import bind, serve
from osworld_router.settings import RouterSettings, load_settings

EXIT_CANNOT_START: Final = 1
EXIT_BAD_SETTINGS: Final = 2

QUIET_LOGGERS: Final = ("watchfiles", "uvicorn")
"""Libraries whose INFO lines only repeat ours."""


def main() -> None:
    """Run the router; does not return."""
    try:
        settings = load_settings(_arguments())
    except SettingsError as error:
        _give_up(str(error), EXIT_BAD_SETTINGS)
    set_up_logging(settings.log_level, settings.secrets)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    # A traceback for every call that the API server does not answer; `osworld_router.pods` says each reason once.
    logging.getLogger("kubernetes.informer.informer").setLevel(logging.CRITICAL)
    try:
        _run(settings)
    except StartError as error:
        _give_up(f"osworld_router: {error}", EXIT_CANNOT_START)


def _run(settings: RouterSettings) -> None:
    if settings.registry_file is not None and not settings.registry_file.absolute().parent.is_dir():
        folder = settings.registry_file.absolute().parent
        raise StartError(f"the folder {folder} of OSWORLD_REGISTRY_FILE is not there")
    with bind(settings) as listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, listener))


def _arguments() -> dict[str, str | bool]:
    """Return the settings that the command line gives, by field."""
    parser = argparse.ArgumentParser(
        prog="python -m osworld_router",
        description="One URL in front of all envs of a pool.",
        epilog="Every setting is a variable OSWORLD_...; a file .env is read too; the command line wins.",
    )
    parser.add_argument("--host", dest="router_host", help="address to listen on (OSWORLD_ROUTER_HOST)")
    parser.add_argument("--port", dest="router_port", help="port to listen on (OSWORLD_ROUTER_PORT)")
    parser.add_argument("--registry", dest="registry_file", help="the registry file (OSWORLD_REGISTRY_FILE)")
    parser.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        help="listen on an address other than loopback without a token (OSWORLD_INSECURE)",
    )
    return {name: value for name, value in vars(parser.parse_args()).items() if value is not None}


def _give_up(sentence: str, code: int) -> None:
    sys.stderr.write(f"{sentence}\n")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
