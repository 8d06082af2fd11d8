"""The start of a worker's two processes: the worker in its sandbox, and the file server outside of it."""

import asyncio
import contextlib
import json
import logging
import os
import socket
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osworld_contract.faults import FaultError, FaultReason, fault_error
from osworld_contract.redact import redact
from osworld_envpod.tasks import sandbox
from osworld_envpod.tasks.settings import WorkerSettings
from osworld_envpod.tasks.walls import walls_argument

log = logging.getLogger(__name__)

STATUS_DEADLINE_S: Final = 10.0
"""For bwrap to set up its namespaces. A guess with room: 50 ms."""
_CODE: Final = Path(__file__).parent / "child"
_PYTHON_OPTIONS: Final = ("-I", "-B", "-W", "ignore")
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OUTPUT_CHARS: Final = 1000
_USERNS: Final = (
    "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces>0, on Ubuntu also "
    "kernel.apparmor_restrict_unprivileged_userns=0)"
)


@dataclass(frozen=True)
class SandboxHold:
    """Descriptors that are held while a sandbox runs."""

    init_fd: int
    """The sandbox's PID 1, with which all in it ends."""
    status_fd: int
    """Where bwrap reports: it reports the end too, and would end by SIGPIPE if nobody could read that."""

    def close(self) -> None:
        """Close them; once."""
        os.close(self.init_fd)
        os.close(self.status_fd)


@dataclass(frozen=True)
class Launched:
    """What was started. The channel is the env server's end."""

    process: Process
    """The worker, or the sandbox around it, which leads a group and a session."""
    files: Process
    channel: socket.socket
    hold: SandboxHold | None
    """None without a sandbox."""
    pid: int
    """The worker's own process id."""


def folder_inside(settings: WorkerSettings) -> Path:
    """Return the worker's folder as the worker sees it."""
    return sandbox.INSIDE if settings.sandbox else settings.cache_dir


async def launch(settings: WorkerSettings) -> Launched:
    """Start both processes; the worker has yet to import desktop-env.

    Raises:
        FaultError: ``worker_start_failed``; nothing is left.
    """
    if not settings.python.exists():
        raise _failed(
            f"{settings.python} is not there; `python -m osworld_envpod.tasks.provision` makes the task worker's "
            "environment"
        )
    if settings.sandbox and (missing := sandbox.missing_programs()):
        raise _failed(f"the task worker's sandbox cannot be made: {missing}; {sandbox.OPT_OUT}")
    with contextlib.ExitStack() as ours:
        channel, theirs = socket.socketpair()
        door, files_door = socket.socketpair()
        for end in (theirs, door, files_door):
            ours.enter_context(end)
        try:
            files = await _spawn_files(settings, files_door)
        except OSError as error:
            channel.close()
            raise _failed(f"{settings.python} could not be started ({error.strerror})") from error
        try:
            process, hold, pid = await _spawn_worker(settings, theirs, door)
        except BaseException:
            channel.close()
            files.kill()
            await files.wait()
            raise
    return Launched(process, files, channel, hold, pid)


async def _spawn_files(settings: WorkerSettings, door: socket.socket) -> Process:
    options = {
        "mirror": str(settings.mirror.resolve()) if settings.mirror else None,
        "cache": str(settings.download_dir.resolve()),
        "connect_timeout_s": settings.download_connect_timeout_s,
        "read_timeout_s": settings.download_read_timeout_s,
        "cache_max_bytes": settings.download_cache_max_mib << 20,
    }
    return await asyncio.create_subprocess_exec(
        str(settings.python),
        *(*_PYTHON_OPTIONS, str(_CODE / "__main__.py"), "files", str(door.fileno()), json.dumps(options)),
        pass_fds=(door.fileno(),),
        start_new_session=True,
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=DEVNULL,  # what goes wrong in it is in its answers
        env={"PATH": _SYSTEM_PATH, "LANG": "C.UTF-8", "HOME": "/nonexistent"} | settings.proxies,
        cwd="/",
    )


async def _spawn_worker(
    settings: WorkerSettings, channel: socket.socket, door: socket.socket
) -> tuple[Process, SandboxHold | None, int]:
    descriptors = [channel.fileno(), door.fileno()]
    if not settings.sandbox:
        walls = await asyncio.to_thread(walls_argument, settings, _CODE)
        argv = [str(settings.python), *_child_argv(_CODE, descriptors, walls)]
        process = await _spawn(settings, argv, descriptors, settings.cache_dir / "cwd")
        return process, None, process.pid
    host = await asyncio.to_thread(sandbox.read_host)
    status_out, status_in = os.pipe()
    try:
        plan = sandbox.Plan(settings.python, _CODE, settings.cache_dir.resolve(), settings.host_uid, status_in)
        argv = sandbox.sandboxed(plan, host, _child_argv(sandbox.INSIDE / "code", descriptors, ""))
        process = await _spawn(settings, argv, [*descriptors, status_in], Path("/"))
    except BaseException:
        os.close(status_out)
        raise
    finally:
        os.close(status_in)
    try:
        pid = await _read_pid(process, os.dup(status_out), settings.secrets)
        return process, SandboxHold(os.pidfd_open(pid), status_out), pid
    except BaseException as error:
        os.close(status_out)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, ProcessLookupError):
            raise _failed("the task worker ended at once") from error
        raise


def _child_argv(code: Path, descriptors: Sequence[int], walls: str) -> list[str]:
    return [*_PYTHON_OPTIONS, str(code / "__main__.py"), "worker", *(str(number) for number in descriptors), walls]


async def _spawn(settings: WorkerSettings, argv: list[str], descriptors: Sequence[int], cwd: Path) -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            pass_fds=tuple(descriptors),
            start_new_session=True,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            env=_environment(settings),
            cwd=cwd,
        )
    except OSError as error:
        raise _failed(f"{argv[0]} could not be started ({error.strerror})") from error


def _environment(settings: WorkerSettings) -> dict[str, str]:
    """Return the whole environment of the worker: nothing of the env server's own but a search path.

    bwrap passes it on as it is; named on its command line, the secrets among it could be read by every user.
    """
    folder = folder_inside(settings)
    own = {
        "PATH": _SYSTEM_PATH if settings.sandbox else os.environ.get("PATH", os.defpath),
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "XDG_CACHE_HOME": str(folder / "home" / ".cache"),
        "LANG": "C.UTF-8",
        # One thread each: the libraries' pools would cost memory at once, and forks do not take them along.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "NUMEXPR_NUM_THREADS": "1",
    }
    if "TZ" in os.environ:
        own["TZ"] = os.environ["TZ"]
    return own | dict(settings.environment)


async def _read_pid(process: Process, status_fd: int, secrets: tuple[str, ...]) -> int:
    """Return the process id that bwrap reports for the sandbox's PID 1."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(status_fd, "rb")
    )
    try:
        async with asyncio.timeout(STATUS_DEADLINE_S):
            line = await reader.readline()
            if line:
                status: dict[str, Any] = json.loads(line)
                return int(status["child-pid"])
            assert process.stdout is not None
            output = (await process.stdout.read(_OUTPUT_CHARS)).decode(errors="replace").strip()
    except (TimeoutError, ValueError, KeyError) as error:
        raise _failed("bwrap did not say which process it started") from error
    finally:
        transport.close()
    raise _failed(f"the task worker's sandbox cannot be made ({redact(output, secrets)}): {_USERNS}; {sandbox.OPT_OUT}")


def _failed(message: str) -> FaultError:
    return fault_error(FaultReason.WORKER_START_FAILED, message)
