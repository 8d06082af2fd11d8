"""Entry of ``python -m osworld_env.arpo MODULE ARGUMENTS...``: the trainer's own command line after its launcher's."""

import runpy
import sys

from osworld_env.arpo.patch import install
from osworld_env.arpo.trainer import require_trainer
from osworld_env.errors import BadUsageError, CliError
from osworld_env.terminal import show_error


def main() -> None:
    """Run the module that the command line names, as ``python -m`` would, with this package's replacements in it."""
    try:
        if len(sys.argv) < 2:
            raise BadUsageError("usage: python -m osworld_env.arpo verl.trainer.main config=...")
        del sys.argv[0]
        require_trainer()
        install()
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except CliError as error:
        show_error(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
