"""Starts the guest agent: ``python -m osworld_guest --listen ... [--relay fd:N=PORT]``.

It waits until the desktop is drawn before it serves, so that its first answer means ready. It ends when its screen
ends.
"""

import argparse
import asyncio
import ctypes
import logging
import os
import socket
import sys
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import uvicorn

from osworld_contract.logs import set_up_logging
from osworld_guest import layout
from osworld_guest.agent import Agent, AgentParts
from osworld_guest.app import create_app
from osworld_guest.calls import CallExecutor
from osworld_guest.listeners import open_listener
from osworld_guest.readiness import NotReadyError, await_ready
from osworld_guest.recording import Recorder
from osworld_guest.relay import Relay, start_relay
from osworld_guest.screen import Screen
from osworld_guest.window_look import WindowWatcher

READY_DEADLINE_S = 30.0
"""Default of ``--ready-deadline-s``. A guess with room: 2 s on an idle machine, a minute under emulation."""

KEEP_ALIVE_S = 600
"""The env server keeps its connection between the steps of an episode."""

EXIT_NOT_READY = 72
_PR_SET_DUMPABLE = 4

logger = logging.getLogger("osworld_guest")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="osworld_guest", description=__doc__)
    parser.add_argument("--listen", action="append", required=True, help="fd:N, tcp:HOST:PORT or unix:PATH; repeatable")
    parser.add_argument("--relay", action="append", default=[], type=Relay.parse, help="fd:N=PORT; repeatable")
    parser.add_argument("--call-pause-s", type=float, default=0.0, help="pause after each call, in seconds")
    parser.add_argument("--ready-deadline-s", type=float, default=READY_DEADLINE_S, help="for the desktop to be drawn")
    parser.add_argument("--display-fd", type=int, help="wait for a byte here before connecting to the display")
    return parser.parse_args(argv)


def _forbid_tracing() -> None:
    """Keep programs of the same user from attaching to this process and taking its sockets. Linux only."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _build(boot_id: str, call_pause_s: float, deadline_s: float) -> AgentParts:
    """Connect to the display and wait for the desktop.

    Raises:
        NotReadyError: It was not drawn in time.
    """
    screen_thread = ThreadPoolExecutor(1, "screen")
    executor_thread = ThreadPoolExecutor(1, "executor")
    executor = executor_thread.submit(CallExecutor, layout.DISPLAY, call_pause_s)
    screen = screen_thread.submit(Screen, layout.DISPLAY).result(deadline_s)
    screen_thread.submit(await_ready, layout.DISPLAY, screen, deadline_s).result(deadline_s + 1)
    watcher_thread = ThreadPoolExecutor(1, "watcher")
    watcher = watcher_thread.submit(WindowWatcher, layout.DISPLAY)
    return AgentParts(
        boot_id,
        layout.DISPLAY,
        screen,
        screen_thread,
        executor.result(deadline_s),
        executor_thread,
        watcher.result(deadline_s),
        watcher_thread,
    )


async def _serve(parts: AgentParts, listeners: list[socket.socket], relays: list[Relay]) -> None:
    recorder = Recorder(parts.display, parts.screen.width_px, parts.screen.height_px)
    app = create_app([*Agent(parts).routes(), *recorder.routes()])
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_keep_alive=KEEP_ALIVE_S, lifespan="off", server_header=False
    )
    servers = [await start_relay(relay) for relay in relays]
    logger.info("ready: boot %s, screen %dx%d", parts.boot_id, parts.screen.width_px, parts.screen.height_px)
    try:
        await uvicorn.Server(config).serve(sockets=listeners)
    finally:
        for server in servers:
            server.close()


def main(argv: Sequence[str]) -> int:
    """Serve until told to end and return the exit code."""
    options = _parse(argv)
    set_up_logging("INFO")
    _forbid_tracing()
    try:
        listeners = [open_listener(address) for address in options.listen]
    except (OSError, ValueError) as error:
        logger.error("--listen: %s", error)  # noqa: TRY400 - the sentence says it all
        return 2
    if options.display_fd is not None:
        os.read(options.display_fd, 1)
        os.close(options.display_fd)
    try:
        parts = _build(
            os.environ.get("OSWORLD_BOOT_ID") or uuid.uuid4().hex, options.call_pause_s, options.ready_deadline_s
        )
    except NotReadyError as error:
        logger.error("the desktop is not ready: %s", error)  # noqa: TRY400
        return EXIT_NOT_READY
    asyncio.run(_serve(parts, listeners, options.relay))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
