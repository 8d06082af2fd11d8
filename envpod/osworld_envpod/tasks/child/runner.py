"""A runner as the zygote sees it: a fork that carries out one operation, and the one-way pipe on which it reports.

The runner has neither the channel nor the door: what it says counts for its own operation and no other.
"""

import json
import logging
import os
import signal
import socket
import sys
from typing import Any

from . import guard
from .channel import Channel
from .files import Files
from .walls import Walls

LINE_MAX_BYTES = 1 << 20
"""Longest report. A guess with room: 30 log lines and a traceback have some 20 kB."""
_CHUNK_BYTES = 65536
_REPORTS = frozenset({"step", "trouble", "fault", "result"})


class Runner:
    """One running fork. `read` when `fileno` is ready; `end` once."""

    def __init__(self, pid: int, reports: int) -> None:
        self.pid = pid
        self._reports = reports
        self._buffer = b""

    @classmethod
    def fork(cls, request: dict[str, Any], channel: Channel, door: socket.socket, around: Walls | None) -> "Runner":
        """Start a fork that carries out `request`, inside walls if there are any, and ends.

        Raises:
            OSError: There is no process, descriptor or file server to be had; nothing is left.
        """
        reports_out, reports_in = os.pipe()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(door, [b"c"], [theirs.fileno()])
            pid = os.fork()
        except OSError:
            os.close(reports_out)
            os.close(reports_in)
            ours.close()
            raise
        if pid == 0:
            os.close(reports_out)
            channel.close()
            door.close()
            _run(request, reports_in, ours, around)
        os.close(reports_in)
        ours.close()
        return cls(pid, reports_out)

    def fileno(self) -> int:
        """Return the descriptor to wait on: readable when there is a report, or the end of the runner."""
        return self._reports

    def read(self) -> list[dict[str, Any]] | None:
        """Return the reports that are whole by now; None at the end, and where it says what is no report."""
        chunk = os.read(self._reports, _CHUNK_BYTES)
        if not chunk:
            return None
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        try:
            reports = [json.loads(line) for line in lines]
        except (ValueError, RecursionError):
            return None
        is_sound = all(isinstance(report, dict) and report.get("event") in _REPORTS for report in reports)
        return reports if is_sound and len(self._buffer) <= LINE_MAX_BYTES else None

    def end(self) -> int:
        """Kill the runner, which changes nothing where it has ended by itself, reap it, and return its exit code."""
        self.kill()
        os.close(self._reports)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        """Send SIGKILL; `read` then tells the end."""
        os.kill(self.pid, signal.SIGKILL)


def _run(request: dict[str, Any], reports: int, files: socket.socket, around: Walls | None) -> None:
    """Carry out `request` in the fork and end it; never returns into the zygote's loop."""
    try:
        guard.end_with_parent()
        if around is not None:
            around.around_runner(request["addresses"])
        from . import operation  # noqa: PLC0415 - imported by `serve` before; here only to be named

        # Not closed but by the process's end, which is what the zygote takes it for.
        out = os.fdopen(reports, "wb", closefd=False)

        def report(message: dict[str, Any]) -> None:
            out.write(json.dumps(message, default=str).encode() + b"\n")
            out.flush()

        operation.run(request, report, Files(files))
    except BaseException:  # the process's boundary
        logging.getLogger(__name__).exception("the runner failed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
