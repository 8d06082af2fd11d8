"""The other parts' programs, started as processes of this Python: never imported (design, "The house")."""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Final, NoReturn

from osworld_env.errors import CliError

ENV_SERVER: Final = "osworld_envpod"
PARSE: Final = "osworld_envpod.parse"
QEMU_DESKTOP: Final = "osworld_envpod.desktops.qemu"
XVFB_DESKTOP: Final = "osworld_envpod.desktops.xvfb"
PROVISION_GUEST: Final = "osworld_guest.provision"
PROVISION_WORKER: Final = "osworld_envpod.tasks.provision"


def module_argv(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the argument vector that runs `module`."""
    return (sys.executable, "-m", module, *arguments)


def become(module: str, variables: Mapping[str, str] | None = None) -> NoReturn:
    """Replace this process by `module`, with `variables` added to its environment.

    Raises:
        CliError: It cannot be started.
    """
    argv = module_argv(module)
    sys.stdout.flush()
    try:
        os.execve(argv[0], argv, {**os.environ, **(variables or {})})  # noqa: S606 - argv is ours
    except OSError as error:
        raise CliError(f"{module} cannot be started: {error.strerror}") from error


def run_module(module: str, *arguments: str) -> int:
    """Run `module` and return its exit code. Its messages go to this terminal, its standard output nowhere.

    There is no deadline here: what it downloads may take long, and it has deadlines of its own.

    Raises:
        CliError: It cannot be started.
    """
    try:
        return subprocess.run(module_argv(module, *arguments), stdout=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        raise CliError(f"{module} cannot be started: {error.strerror}") from error


def ask_module(module: str, *arguments: str, deadline_s: float) -> subprocess.CompletedProcess[str]:
    """Run `module` and return what it printed.

    Raises:
        CliError: It cannot be started, or did not end by the deadline.
    """
    try:
        return subprocess.run(
            module_argv(module, *arguments), capture_output=True, text=True, timeout=deadline_s, check=False
        )
    except OSError as error:
        raise CliError(f"{module} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise CliError(f"{module} did not end within {deadline_s:g} s") from error
