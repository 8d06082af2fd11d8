"""The worker process: imports desktop-env once, then forks a runner for each operation and ends what that leaves.

States: importing → ready ⇄ running. It ends, with everything below it, when the channel closes, which it does even if
the env server is killed; and where a runner has left it in another state than it was.
"""

import contextlib
import gc
import logging
import selectors
import socket
import sys
import time
import traceback
from typing import Any

from . import guard, missing, walls
from .channel import Channel, ChannelClosed
from .runner import Runner

_TRACEBACK_CHARS = 2000


class Zygote:
    """Serves one channel; at most one runner at a time."""

    def __init__(self, channel: Channel, door: socket.socket, around: walls.Walls | None) -> None:
        self._channel = channel
        self._door = door
        self._around = around
        self._runner: Runner | None = None
        self._standing: guard.Standing = ()

    def serve(self) -> None:
        """Take operations until the channel closes.

        Raises:
            ChannelClosed: The env server is gone.
            guard.NotEnded: A runner has left what cannot be undone.
        """
        self._standing = guard.standing()  # after the imports, which may set limits of their own
        while True:
            with selectors.DefaultSelector() as selector:
                selector.register(self._channel, selectors.EVENT_READ)
                if self._runner is not None:
                    selector.register(self._runner, selectors.EVENT_READ)
                ready = [key.fileobj for key, _ in selector.select()]
            if self._runner is not None and self._runner in ready:
                self._follow(self._runner)
            if self._channel in ready:
                for request in self._channel.receive():
                    self._take(request)

    def end(self) -> None:
        """End the runner and all that it started. Can run twice."""
        with contextlib.suppress(guard.NotEnded):
            guard.end_children()

    def _take(self, request: dict[str, Any]) -> None:
        if request["op"] == "abort":
            if self._runner is not None:
                self._runner.kill()
            return
        if self._runner is not None:
            self._channel.send(
                {"event": "fault", "reason": "internal", "message": "an operation is under way", "evidence": {}}
            )
            return
        try:
            self._runner = Runner.fork(request, self._channel, self._door, self._around)
        except OSError as error:
            message = f"no process could be started for the operation: {error}"
            self._channel.send({"event": "fault", "reason": "worker_start_failed", "message": message, "evidence": {}})
            self._channel.send({"event": "ended", "exit_code": None})

    def _follow(self, runner: Runner) -> None:
        reports = runner.read()
        if reports is not None:
            for report in reports:
                self._channel.send(report)
            return
        self._runner = None
        exit_code = runner.end()
        guard.end_children()
        if guard.standing() != self._standing:
            logging.getLogger(__name__).error("a runner has changed the worker's limits")
            raise guard.NotEnded
        # Last, as the next operation may come at once.
        self._channel.send({"event": "ended", "exit_code": exit_code})


def serve(channel_descriptor: int, door_descriptor: int, walls_text: str) -> None:
    """Import desktop-env, say so on the channel, and serve it until it closes. An empty `walls_text` means no walls."""
    guard.end_with_parent()
    guard.close_to_runners()
    # Before anything of others is imported: the walls are around all threads only if there is one.
    around = walls.parse(walls_text) if walls_text else None
    found = around.around_zygote() if around else {}
    channel = Channel(channel_descriptor)
    door = socket.socket(fileno=door_descriptor)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    began_s = time.monotonic()
    missing.install()
    zygote = Zygote(channel, door, around)
    try:
        try:
            # Everything that operations use, so that it is imported once and shared by all runners.
            from . import catalog, operation  # noqa: F401, PLC0415 - desktop-env comes with them

            known = catalog.read()
        except Exception:
            channel.send({"event": "failed", "traceback": traceback.format_exc()[-_TRACEBACK_CHARS:]})
            raise
        # Keeps the collector from touching, and so copying, the pages that runners share with this process.
        gc.collect()
        gc.freeze()
        import_s = time.monotonic() - began_s
        channel.send(
            {"event": "ready", "catalog": known, "absent": missing.absent(), "import_s": import_s, "walls": found}
        )
        zygote.serve()
    except ChannelClosed:
        logging.getLogger(__name__).info("the env server has closed the channel")
    finally:
        zygote.end()
