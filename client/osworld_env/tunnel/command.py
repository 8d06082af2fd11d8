"""The command ``osworld-env tunnel``."""

import asyncio
import logging
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from osworld_contract.names import ENV_SERVER_PORT, ROUTER_PORT
from osworld_env import terminal
from osworld_env.errors import CliError
from osworld_env.foreground import Interrupts, run_in_foreground
from osworld_env.ports import free_port
from osworld_env.tunnel.hold import Holding, NextLeg, hold
from osworld_env.tunnel.legs import LOOPBACK, Leg, checked_target, unit_text

_logger = logging.getLogger(__name__)

_LOOK_DEADLINE_S: Final = 1.0
"""For a connection to this machine itself. A guess with room: it takes under a millisecond."""

_LOOK_AGAIN_S: Final = 1.0
"""A guess: a start of env server or router takes 5 s."""


def tunnel(  # noqa: PLR0913, PLR0917 - one parameter for each option
    target: Annotated[
        str, typer.Argument(metavar="[USER@]HOST", help="The cluster's machine, as ssh takes it; ssh://U@H:PORT too.")
    ],
    via: Annotated[
        str | None,
        typer.Option(metavar="[USER@]VM", help="Env server or router run there, and this machine reaches both."),
    ] = None,
    remote_port: Annotated[int, typer.Option(min=1, max=65535, help="The port on which HOST listens.")] = ROUTER_PORT,
    remote_address: Annotated[
        str, typer.Option(help="The address on which HOST listens; others than loopback need its GatewayPorts.")
    ] = LOOPBACK,
    local_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help=f"Port of env server or router. Default: {ENV_SERVER_PORT}, or without --via "
            f"{ROUTER_PORT} if only that listens.",
        ),
    ] = None,
    ssh_config: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A file in the place of ~/.ssh/config.")
    ] = None,
    print_unit: Annotated[
        bool, typer.Option("--print-unit", help="Print a systemd user unit that does this, and end.")
    ] = False,
) -> None:
    """Make an env server or router that runs here reachable on HOST, which cannot reach this machine.

    Holds an ssh reverse tunnel, and connects again whenever it breaks, until Ctrl-C. Keys and jump hosts are those
    of ssh's configuration; ssh is never asked a question, so `ssh HOST true` must work by itself.
    """
    checked_target(target)
    if via is not None:
        checked_target(via)
    ssh = shutil.which("ssh")
    if ssh is None:
        raise CliError("there is no ssh on this machine: install openssh-client")
    if print_unit:
        words = [target, "--remote-port", str(remote_port), "--remote-address", remote_address]
        given = {"--via": via, "--local-port": local_port, "--ssh-config": ssh_config and ssh_config.absolute()}
        words += [str(word) for name, value in given.items() if value is not None for word in (name, value)]
        sys.stdout.write(unit_text((sys.executable, "-m", "osworld_env", "tunnel", *words), target))
        return
    terminal.set_up_console_logging("INFO")
    legs = _legs(target, via, (remote_address, remote_port), local_port)
    holding = Holding(ssh, ssh_config)
    run_in_foreground(lambda interrupts: _hold_all(legs, holding, interrupts))
    terminal.out.print("Stopped.")


def _legs(target: str, via: str | None, remote: tuple[str, int], port: int | None) -> list[NextLeg]:
    """Return the legs of a tunnel: one, or with `via` one to the machine of the env server and one on from here."""
    if via is None:
        return [partial(_leg, Leg(target, True, *remote, LOOPBACK, port or ENV_SERVER_PORT), is_fixed=port is not None)]
    here = free_port()
    to_vm = Leg(via, False, LOOPBACK, here, LOOPBACK, port or ENV_SERVER_PORT)
    return [partial(_leg, leg, is_fixed=True) for leg in (to_vm, Leg(target, True, *remote, LOOPBACK, here))]


async def _leg(leg: Leg, is_fixed: bool) -> Leg:
    """Return `leg`, if not `is_fixed` to the port that listens here: the env server's, or only the router's.

    Waits while neither listens: a unit may be up before they are.
    """
    is_said = False
    while not is_fixed:
        for port in (ENV_SERVER_PORT, ROUTER_PORT):
            if await _listens(port):
                return replace(leg, to_port=port)
        if not is_said:
            _logger.warning(
                "nothing listens on %d or %d here yet: waiting for `osworld-env serve` or `up`; "
                "if it listens elsewhere, pass --local-port",
                ENV_SERVER_PORT,
                ROUTER_PORT,
            )
        is_said = True
        await asyncio.sleep(_LOOK_AGAIN_S)
    return leg


async def _listens(port: int) -> bool:
    try:
        async with asyncio.timeout(_LOOK_DEADLINE_S):
            _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True


async def _hold_all(legs: list[NextLeg], holding: Holding, _: Interrupts) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for leg in legs:
                group.create_task(hold(leg, holding, _say_up))
    except ExceptionGroup as errors:
        ends = errors.subgroup(CliError)
        if ends is None:
            raise
        raise ends.exceptions[0] from errors


def _say_up(leg: Leg) -> None:
    _logger.info(
        "up: port %d of %s leads to port %d of %s",
        leg.listen_port,
        leg.listener,
        leg.to_port,
        "this machine" if leg.is_reverse else leg.target,
    )
