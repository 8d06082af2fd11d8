"""The desktop's start, as one program that may be a container's PID 1: ``python -m osworld_guest.session``.

It fills the home, starts X server, session bus, window manager, panel, file manager and guest agent, and reaps every
process that is left to it. It ends when the X server or the guest agent ends, and everything ends with it. Only the
standard library is imported: this process is on the way of every start.
"""

import argparse
import errno
import os
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from osworld_guest import layout
from osworld_guest.home import fill_home, link_programs
from osworld_guest.processes import Program, close_fds, start_program

READY_DEADLINE_S = 60.0
"""For the X server and the session bus to come up. A guess with room: 0.2 s on an idle machine, 5 s under emulation."""

RESTARTS_MAX = 20
"""How often each program that is not vital is started again. A guess: enough for a person, too few for a loop."""

TERMINATE_DEADLINE_S = 1.0
KILL_DEADLINE_S = 5.0
EXIT_START_FAILED = 70
EXIT_VITAL_ENDED = 71
OOM_SCORE_ADJ = 500
"""Where memory runs out, the kernel ends desktops before servers."""


@dataclass(frozen=True)
class Options:
    """What the session is told."""

    boot_id: str
    screen: str
    agent_arguments: Sequence[str]
    inherited_fds: Sequence[int]


class SessionFailed(Exception):
    """The session cannot start or go on."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def _log(message: str) -> None:
    sys.stderr.write(f"session: {message}\n")
    sys.stderr.flush()


def parse_options(argv: Sequence[str]) -> Options:
    """Return the options in `argv`; those of the guest agent are passed on to it."""
    parser = argparse.ArgumentParser(prog="osworld_guest.session")
    parser.add_argument("--boot-id", required=True, help="names this start; the agent repeats it")
    parser.add_argument("--screen", default="1920x1080", help="width x height in pixels")
    parser.add_argument("--listen", action="append", default=[], help="as in osworld_guest; repeatable")
    parser.add_argument("--relay", action="append", default=[], help="as in osworld_guest; repeatable")
    parser.add_argument("--call-pause-s", default="0", help="as in osworld_guest")
    parser.add_argument("--ready-deadline-s", default="30", help="as in osworld_guest; for a slow machine")
    given = parser.parse_args(argv)
    arguments = ["--call-pause-s", given.call_pause_s, "--ready-deadline-s", given.ready_deadline_s]
    fds = []
    for option, values in (("--listen", given.listen), ("--relay", given.relay)):
        for value in values:
            arguments += [option, value]
            if value.startswith("fd:"):
                fds.append(int(value.removeprefix("fd:").partition("=")[0]))
    return Options(given.boot_id, given.screen, arguments, fds)


def _await_line(fd: int, what: str) -> None:
    """Wait until a whole line can be read from `fd`, which says that `what` is up.

    Xvfb writes its line in two pieces, and ends where the second finds nobody.
    """
    end = time.monotonic() + READY_DEADLINE_S
    while True:
        readable, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
        if not readable:
            raise SessionFailed(f"{what} did not come up in {READY_DEADLINE_S:g} s", EXIT_START_FAILED)
        piece = os.read(fd, 4096)
        if not piece:
            raise SessionFailed(f"{what} ended before it was up", EXIT_START_FAILED)
        if piece.endswith(b"\n"):
            break
    os.close(fd)


class Session:
    """Starts the programs, watches them, and ends with the vital ones."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._environment = layout.environment(dict(os.environ)) | {"OSWORLD_BOOT_ID": options.boot_id}
        self._running: dict[int, Program] = {}
        self._restarts = Counter[str]()
        layout.SESSION_LOG.parent.mkdir(parents=True, exist_ok=True)
        self._inner_log: IO[bytes] = layout.SESSION_LOG.open("ab")

    def start(self) -> None:
        """Start every program, each as soon as what it needs is up.

        Raises:
            SessionFailed: The X server or the session bus did not come up, or a vital program is not there.
        """
        display_out, display_in = os.pipe()
        bus_out, bus_in = os.pipe()
        agent_out, agent_in = os.pipe()
        screen = f"{self._options.screen}x24"
        self._run(
            Program(
                "Xvfb",
                ["Xvfb", layout.DISPLAY, "-screen", "0", screen, "-dpi", "96", "-nolisten", "tcp", "-noreset",
                 "-s", "0", "-dpms", "-displayfd", str(display_in)],
                is_vital=True, keeps_log=True, pass_fds=[display_in],
            )
        )  # fmt: skip
        self._run(
            Program(
                "dbus-daemon",
                ["dbus-daemon", "--session", f"--address=unix:path={layout.SESSION_BUS}", "--nofork", "--nopidfile",
                 f"--print-address={bus_in}"],
                is_vital=True, pass_fds=[bus_in],
            )
        )  # fmt: skip
        # The agent loads its modules while the X server comes up; a byte in the pipe tells it to connect.
        inherited = [agent_out, *self._options.inherited_fds]
        self._run(
            Program(
                "agent",
                [str(layout.ROOT / "bin" / "python"), "-m", "osworld_guest", "--display-fd", str(agent_out),
                 *self._options.agent_arguments],
                is_vital=True, keeps_log=True, pass_fds=inherited,
            )
        )  # fmt: skip
        close_fds([display_in, bus_in, *inherited])
        _await_line(display_out, "Xvfb")
        _await_line(bus_out, "dbus-daemon")
        os.write(agent_in, b"\n")
        os.close(agent_in)
        self._run(Program("openbox", ["openbox", "--sm-disable"]))
        self._run(Program("pcmanfm", ["pcmanfm", "--desktop"]))
        self._run(Program("tint2", ["tint2"]))
        self._run(Program("at-spi", ["/usr/libexec/at-spi-bus-launcher", "--launch-immediately"], may_end=True))

    def _run(self, program: Program) -> None:
        try:
            pid = start_program(program, self._environment, self._inner_log)
        except OSError as error:
            if program.is_vital:
                raise SessionFailed(f"{program.name} cannot be started: {error}", EXIT_START_FAILED) from error
            _log(f"{program.name} cannot be started: {error}")
            return
        self._running[pid] = program

    def watch(self) -> NoReturn:
        """Reap every child until a vital one ends.

        Raises:
            SessionFailed: A vital program ended.
        """
        while True:
            pid, status = os.waitpid(-1, 0)
            program = self._running.pop(pid, None)
            if program is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            if program.is_vital:
                raise SessionFailed(f"{program.name} ended with {code}", EXIT_VITAL_ENDED)
            _log(f"{program.name} ended with {code}")
            if program.may_end and code == 0:
                continue
            self._restarts[program.name] += 1
            if self._restarts[program.name] <= RESTARTS_MAX:
                self._run(program)

    def stop(self, *, gently: bool) -> None:
        """End every process of the session: SIGTERM if `gently`, then SIGKILL, then reap. As PID 1 that is all.

        Where a vital program has ended, nothing that goes on is of use: who waits for the desktop is to see at once
        that it is gone.
        """
        rungs = [(signal.SIGTERM, TERMINATE_DEADLINE_S)] if gently else []
        for signal_number, deadline_s in (*rungs, (signal.SIGKILL, KILL_DEADLINE_S)):
            if os.getpid() == 1:
                _signal(-1, signal_number)
            else:
                for pid in self._running:
                    _signal(-pid, signal_number)
            if self._reap_until(time.monotonic() + deadline_s):
                return

    def _reap_until(self, end: float) -> bool:
        """Reap until no child is left (True) or `end` passed (False). Children give no file to wait on: poll."""
        while time.monotonic() < end:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                time.sleep(0.01)
        return False


def _signal(target: int, signal_number: int) -> None:
    try:
        os.kill(target, signal_number)
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise


def _end_orderly(signal_number: int, _frame: object) -> NoReturn:
    raise SessionFailed(f"ended by {signal.Signals(signal_number).name}", 0)


def _prefer_to_be_killed() -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(f"{OOM_SCORE_ADJ}\n")
    except OSError as error:
        _log(f"oom_score_adj stays as it is: {error}")


def main(argv: Sequence[str]) -> int:
    """Run the session until it ends and return the exit code."""
    options = parse_options(argv)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, _end_orderly)
    os.umask(0o022)
    _prefer_to_be_killed()
    try:
        fill_home()
        link_programs()
        session = Session(options)
    except OSError as error:
        _log(f"the home cannot be filled: {error}")
        return EXIT_START_FAILED
    try:
        session.start()
        session.watch()
    except (SessionFailed, OSError) as failure:
        _log(str(failure) or type(failure).__name__)
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, signal.SIG_IGN)
        exit_code = failure.exit_code if isinstance(failure, SessionFailed) else EXIT_START_FAILED
        session.stop(gently=exit_code == 0)
        return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
