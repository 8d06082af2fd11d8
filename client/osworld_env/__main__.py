"""Entry of ``osworld-env``: runs a command, and turns what it raises into one sentence and an exit code."""

import os
import sys

import typer

from osworld_env.app import app
from osworld_env.cluster.app import pool
from osworld_env.errors import EXIT_FAILURE, CliError
from osworld_env.terminal import err, show_error

DEBUG_VARIABLE = "OSWORLD_DEBUG"
"""Set to 1, it shows the traceback of a defect."""


def main() -> None:
    """Run the command line; never returns."""
    _run(app)


def kubectl_main() -> None:
    """Run the commands of ``pool`` as kubectl's plugin: ``kubectl osworld get``; never returns."""
    _run(pool)


def _run(commands: typer.Typer) -> None:
    try:
        commands()
    except CliError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit fails once more
        sys.exit(EXIT_FAILURE)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            err.print_exception()
        show_error(
            CliError(f"a defect of osworld-env: {type(error).__name__}: {error} ({DEBUG_VARIABLE}=1 shows where)")
        )
        sys.exit(EXIT_FAILURE)


if __name__ == "__main__":
    main()
