"""PID 1 of a desktop's container in an xvfb env pod: ``python -m osworld_guest.container``.

The env server, in the other container, orders each start of the desktop (`osworld_contract.desktop_control`). Before
each, everything that the agent left is ended and removed. The agent's programs are hostile and of the same user, so:

- It cannot be traced, and its descriptors cannot be taken (not dumpable). The kernel keeps signals from inside away
  from a PID 1 that has no handler for them; the one that asks it to end counts only if it comes from outside.
- When the env server is gone, everything is ended at once, before another one is looked for.
- Whatever cannot be emptied, or was changed about this process, ends it: the kernel ends the container with it, and a
  new one is started.

Standard library only.
"""

import argparse
import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from osworld_contract.desktop_control import (
    CONTROL_FOLDER,
    CONTROL_SOCKET,
    CONTROL_VERSION,
    EVENT_EMPTY,
    EVENT_ENDED,
    EVENT_STARTED,
    ORDER_BOOT,
    ORDER_EMPTY,
    ORDER_GUARD,
    PACKET_MAX_BYTES,
    SESSION_FIRST_FD,
    Event,
    Order,
)
from osworld_guest.emptying import NotEmptyError, OwnState, empty, end_processes, reap

PROCESSES_MAX: Final = 16384
"""Default of ``--processes-max``: threads of the user. The kernel counts them over all pods of a node, so this bounds
a fork bomb and is no share; see docs/pools.md for a pod's own limit."""

FILE_MAX_BYTES: Final = 8 << 30
"""Of one file. More than any folder of a desktop holds; it bounds what can be written to the node's own file."""

SEARCH_S: Final = 0.1
"""Between two tries to reach the env server. The folder is another container's: there is nothing to wait on."""

SEND_DEADLINE_S: Final = 10.0
END_DEADLINE_S: Final = 30.0
DESCRIPTORS_MAX: Final = 8
EXIT_USAGE: Final = 2
EXIT_FAILED: Final = 1
_PR_SET_DUMPABLE: Final = 4
_SI_USER: Final = 0
"""Of a signal by kill(2). One that a process made up itself has a negative code. Source: sigaction(2)."""


class ServerLost(Exception):
    """The env server is gone, or talks nonsense."""


def _log(message: str) -> None:
    sys.stderr.write(f"container: {message}\n")
    sys.stderr.flush()


class Ending:
    """The end that was asked for: at once, or where an env server is connected when that one goes.

    A kubelet that ends a pod asks all its containers at the same time, and the env server may be in an episode.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked_by = ""
        self._is_held = False

    def ask(self, name: str) -> None:
        """Note the signal `name`, and end this process unless it is held."""
        with self._lock:
            self._asked_by = name
            self._end_if_free()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep this process from ending during the block."""
        with self._lock:
            self._is_held = True
        try:
            yield
        finally:
            with self._lock:
                self._is_held = False
                self._end_if_free()

    def _end_if_free(self) -> None:
        if self._asked_by and not self._is_held:
            _log(f"ended by {self._asked_by}")
            os._exit(0)


def guard_signals(ending: Ending) -> None:
    """Take a SIGTERM or SIGINT that comes from outside as a wish to end; ignore others.

    The mask is inherited by the programs that are run here, and is taken off for the session.
    """
    asked = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, asked)

    def wait() -> None:
        while True:
            info = signal.sigwaitinfo(asked)
            if info.si_pid == 0 and info.si_code == _SI_USER:
                ending.ask(signal.Signals(info.si_signo).name)

    threading.Thread(target=wait, name="signals", daemon=True).start()


class Container:
    """Carries out the env server's orders, one connection after the other."""

    def __init__(self, control: Path, ending: Ending) -> None:
        self._control = control
        self._ending = ending
        self._own = OwnState.now()
        self._session: int | None = None
        self._guards: list[int] = []
        self._wake_out, wake_in = os.pipe()
        for fd in (self._wake_out, wake_in):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)

    def run(self) -> None:
        """Serve one env server after the other.

        Raises:
            NotEmptyError: The desktop cannot be emptied.
            OSError: The system refuses something that it never should.
        """
        while True:
            self._empty()
            with self._found() as server, self._ending.held():
                _log("connected to the env server")
                try:
                    self._serve(server)
                except (ServerLost, ConnectionError, TimeoutError) as error:
                    _log(f"the env server is gone: {error}")

    def _empty(self) -> None:
        self._session = None
        # The address is given back only when nobody is left who could take it.
        end_processes(END_DEADLINE_S)
        while self._guards:
            os.close(self._guards.pop())
        empty(self._own)

    def _found(self) -> socket.socket:
        while True:
            server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                server.connect(str(self._control))
            except (FileNotFoundError, ConnectionRefusedError, PermissionError):  # being made
                server.close()
                time.sleep(SEARCH_S)
            else:
                server.settimeout(SEND_DEADLINE_S)
                return server

    def _serve(self, server: socket.socket) -> None:
        _report(server, EVENT_EMPTY)
        watched: list[socket.socket | int] = [server, self._wake_out]
        while True:
            readable, _, _ = select.select(watched, [], [])
            if self._wake_out in readable:
                self._note_ends(server)
            if server in readable:
                self._obey(server)

    def _note_ends(self, server: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_out, 4096):
                pass
        exit_code = reap().get(self._session or 0)
        if exit_code is not None:
            self._session = None
            end_processes(END_DEADLINE_S)
            _report(server, EVENT_ENDED, exit_code)

    def _obey(self, server: socket.socket) -> None:
        packet, fds, _, _ = socket.recv_fds(server, PACKET_MAX_BYTES, DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
        if not packet:
            raise ServerLost("its end of the connection is closed")
        order: Order = json.loads(packet)
        kept = False
        try:
            if order["order"] == ORDER_GUARD:
                self._guards += fds
                kept = True
            elif order["order"] == ORDER_EMPTY:
                self._session = None
                empty(self._own)
                _report(server, EVENT_EMPTY)
            elif order["order"] == ORDER_BOOT:
                self._session = None
                empty(self._own)
                self._session = start_session(order["arguments"], fds)
                _report(server, EVENT_STARTED)
            else:
                raise ServerLost(f"an order that is not known: {order['order']!r}")
        finally:
            if not kept:
                for fd in fds:
                    os.close(fd)


def start_session(arguments: Sequence[str], fds: Sequence[int]) -> int:
    """Start the session with `fds`, the last of which is for its output, and return its process id."""
    *inherited, log = fds
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, log, 1),
        (os.POSIX_SPAWN_DUP2, log, 2),
        *((os.POSIX_SPAWN_DUP2, fd, SESSION_FIRST_FD + index) for index, fd in enumerate(inherited)),
    ]
    argv = [sys.executable, "-s", "-m", "osworld_guest.session", *arguments]
    environment = {"LANG": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return os.posix_spawn(sys.executable, argv, environment, file_actions=actions, setsid=True, setsigmask=())


def _report(server: socket.socket, name: str, exit_code: int | None = None) -> None:
    event: Event = {"event": name, "version": CONTROL_VERSION}
    if exit_code is not None:
        event["exit_code"] = exit_code
    server.sendall(json.dumps(event).encode())


def _limit(processes_max: int) -> None:
    for what, most in (
        (resource.RLIMIT_NPROC, processes_max),
        (resource.RLIMIT_FSIZE, FILE_MAX_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (value, value))


def main(argv: Sequence[str]) -> int:
    """Serve until ended from outside, or until something cannot be emptied; return the exit code."""
    parser = argparse.ArgumentParser(prog="osworld_guest.container")
    parser.add_argument("--control", type=Path, default=Path(CONTROL_FOLDER, CONTROL_SOCKET), help="the env server's")
    parser.add_argument("--processes-max", type=int, default=PROCESSES_MAX, help="threads of the desktop's user")
    options = parser.parse_args(argv)
    if os.getpid() != 1:
        _log("this ends every process that it may signal: it runs as PID 1 of a container only")
        return EXIT_USAGE
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.umask(0o022)
    ending = Ending()
    guard_signals(ending)
    _limit(options.processes_max)
    try:
        Container(options.control, ending).run()
    except (NotEmptyError, OSError) as error:
        _log(f"{type(error).__name__}: {error}; a new container starts empty")
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
