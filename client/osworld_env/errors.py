"""Errors of the command line, each fit to be shown to a person as it is.

``CliError``             one sentence and an exit code
├── ``BadUsageError``    the command line, a setting or a file is wrong; exit code 2
│   └── ``TrainerMismatchError``  the trainer has not the names that can be driven; says what was found and is accepted
├── ``ClusterError``     the API server of a cluster is out of reach, or said no; carries its words
│   └── ``GoneError``    what was named is not there
└── ``ProgramError``     a program that was started did not become ready, or ended; carries its last log lines
"""

from typing import Final

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2


class CliError(Exception):
    """Ends a command: `message` is one sentence, `details` are lines shown below it."""

    exit_code = EXIT_FAILURE

    def __init__(self, message: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class BadUsageError(CliError):
    """The command line, a setting, or a file that it names is wrong."""

    exit_code = EXIT_USAGE


class TrainerMismatchError(BadUsageError):
    """The trainer's names, or its use of them, are not those that can be driven."""


class ProgramError(CliError):
    """A program that was started did not become ready, or ended by itself."""


class ClusterError(CliError):
    """The API server of a cluster is out of reach, or said no."""


class GoneError(ClusterError):
    """What was named is not in the cluster."""
