"""One machine over its life: boot, pause and resume when told, tell its end, and end it when the channel closes.

Two threads: the first does what blocks, as desktop-env's code does for minutes and without deadlines; the second waits
for the channel's end, and ends the machine whatever the first is at.
"""

import importlib
import json
import logging
import os
import queue
import socket
import sys
import threading
import traceback
from typing import Any, Protocol

LOOK_EVERY_S = 5.0
"""How soon a machine that ends by itself is noticed, where looking costs nothing."""
END_EXIT_CODE = 0
FAILED_EXIT_CODE = 1
_TRACEBACK_CHARS = 2000

log = logging.getLogger(__name__)


class MachineError(Exception):
    """A machine cannot be had. `reason` is one of the env server's fault reasons; the message is one sentence.

    `exit_code` is that of a machine that came to be and ended by itself.
    """

    def __init__(self, reason: str, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = exit_code


class Machine(Protocol):
    """What a provider's module offers as ``Machine(options, tell)``."""

    look_every_s: float

    def boot(self) -> dict[str, Any]:
        """Start it, and return where it is."""

    def pause(self) -> None:
        """Let it stand still."""

    def resume(self) -> None:
        """Let it go on."""

    def lost(self) -> str | None:
        """Return why it is not there any more, None while it is."""

    def end(self) -> None:
        """End it and all that `boot` has made by now. Called once, on another thread, also in the middle of `boot`."""


class Channel:
    """The env server's end of the line. `tell` may be called from both threads."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._lock = threading.Lock()
        self._buffer = b""

    def tell(self, event: str, **fields: Any) -> None:
        """Send an event; an env server that is gone is not told."""
        line = json.dumps({"event": event} | fields, default=str).encode() + b"\n"
        with self._lock:
            try:
                self._socket.sendall(line)
            except OSError:
                log.info("the env server is gone")

    def orders(self) -> Any:
        """Yield the orders until the channel closes."""
        while True:
            try:
                chunk = self._socket.recv(65536)
            except OSError:
                return
            if not chunk:
                return
            *lines, self._buffer = (self._buffer + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)["op"]


def serve(provider: str, descriptor: int, options: dict[str, Any]) -> None:
    """Serve the machine until the channel closes. Does not return."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    channel = Channel(descriptor)
    orders: queue.Queue[str] = queue.Queue()
    try:
        machine: Machine = importlib.import_module(f".{provider}", __package__).Machine(options, channel.tell)
    except MachineError as error:
        channel.tell("failed", reason=error.reason, message=str(error))
        os._exit(FAILED_EXIT_CODE)
    except Exception:
        _tell_defect(channel, f"desktop-env's {provider} provider could not be loaded")
        os._exit(FAILED_EXIT_CODE)

    def listen() -> None:
        for order in channel.orders():
            orders.put(order)
        try:
            machine.end()
        except Exception:
            log.exception("the machine could not be ended")
            os._exit(FAILED_EXIT_CODE)
        os._exit(END_EXIT_CODE)

    threading.Thread(target=listen, name="listen", daemon=True).start()
    _run(channel, machine, orders)
    threading.Event().wait()  # until `listen` ends the process


def _run(channel: Channel, machine: Machine, orders: "queue.Queue[str]") -> None:
    try:
        channel.tell("booted", **machine.boot())
        while True:
            try:
                order = orders.get(timeout=machine.look_every_s)
            except queue.Empty:
                if why := machine.lost():
                    channel.tell("ended", message=why)
                    return
                continue
            {"pause": machine.pause, "resume": machine.resume}[order]()
            channel.tell("done")
    except MachineError as error:
        channel.tell("failed", reason=error.reason, message=str(error), exit_code=error.exit_code)
    except Exception as error:
        _tell_defect(channel, f"desktop-env's provider failed: {type(error).__name__}: {str(error)[:500]}")


def _tell_defect(channel: Channel, message: str) -> None:
    channel.tell(
        "failed", reason="desktop_start_failed", message=message, traceback=traceback.format_exc()[-_TRACEBACK_CHARS:]
    )
