"""Make the task worker's environment: ``python -m osworld_envpod.tasks.provision``. Idempotent.

Each list of requirements gets a folder of its own, ``task-worker-<digest>``, which is whole once it has a stamp; the
name that workers use is a link, turned to it at the end. So an environment keeps its path (a moved one has wrong paths
in its scripts and tracebacks), a broken build is never used, and workers that run keep theirs.
"""

import contextlib
import fcntl
import hashlib
import logging
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from osworld_contract.logs import set_up_logging
from osworld_contract.places import worker_venv_dir

log = logging.getLogger(__name__)

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
STAMP = ".osworld-complete"
SUPPORTED = ((3, 11), (3, 12))
"""Python versions for which the pinned releases have wheels."""
LOCK_DEADLINE_S = 1800.0
VENV_DEADLINE_S = 300.0
INSTALL_DEADLINE_S = 1800.0
"""Guesses with room: an install takes a minute, on a slow line with 500 MB to fetch ten."""
_LOCK_PAUSE_S = 0.5
WAIT_LOG_S = 15.0
"""How often whoever waits says so."""
WAITING = "another process makes the task worker's environment; waiting for it since %.0f s"
_LOG_EVERY = 10
_REFUSED = re.compile(r"(?:No matching distribution found for|satisfies the requirement) (\S+)")
_FAILED_BUILD = re.compile(r"Failed (?:to build|building wheel for) '?([\w.-]+)")
_PROBE = "import desktop_env, gymnasium, psutil, requests"


class ProvisionError(Exception):
    """The environment could not be made. The message is one sentence that says what to do."""


def provision() -> Path:
    """Make the environment if it is missing or out of date, and return its interpreter.

    Safe to run at the same time from several processes: one builds, the others wait.

    Raises:
        ProvisionError: It could not be made; what was there before is unchanged.
    """
    link = worker_venv_dir()
    base = _base_python()
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        with _locked(lock_path()):
            folder = link.with_name(f"{link.name}-{_digest(base)}")
            if not (folder / STAMP).is_file():
                _build(folder, base)
            _turn(link, folder)
    except OSError as error:
        raise ProvisionError(f"{error.filename or link} cannot be written: {error.strerror or error}") from error
    return link / "bin" / "python"


def lock_path() -> Path:
    """Return the lock that a process holds while it makes the environment."""
    link = worker_venv_dir()
    return link.with_name(f"{link.name}.lock")


def is_being_made() -> bool:
    """Say whether a process makes the environment now."""
    try:
        with lock_path().open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody has ever made one here, or not for us
        return False
    return False


def _digest(base: str) -> str:
    """Return what tells environments apart: the requirements, and the interpreter under them."""
    version = ".".join(str(part) for part in sys.version_info[:2])
    return hashlib.sha256("\n".join([*_pins(), base, version]).encode()).hexdigest()[:12]


def _pins() -> list[str]:
    return [line for line in REQUIREMENTS.read_text(encoding="ascii").splitlines() if "==" in line]


def _base_python() -> str:
    """Return the interpreter to build on: this one's if the pinned releases are made for it, else another on PATH."""
    if sys.version_info[:2] in SUPPORTED:
        return str(getattr(sys, "_base_executable", sys.executable))
    names = [f"python{major}.{minor}" for major, minor in reversed(SUPPORTED)]
    if found := next((path for name in names if (path := shutil.which(name))), None):
        return found
    raise ProvisionError(f"the task worker needs one of {', '.join(names)}: install one of these packages by hand")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of all builds on this machine."""
    began_s = tell_s = time.monotonic()
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now_s = time.monotonic()
                if now_s > began_s + LOCK_DEADLINE_S:
                    raise ProvisionError(f"another process has held {path} for {LOCK_DEADLINE_S:.0f} s") from None
                if now_s >= tell_s:
                    log.info(WAITING, now_s - began_s)
                    tell_s = now_s + WAIT_LOG_S
                time.sleep(_LOCK_PAUSE_S)
        yield


def _build(folder: Path, base: str) -> None:
    began_s = time.monotonic()
    log.info("making the task worker's environment in %s (1.3 GB)", folder)
    shutil.rmtree(folder, ignore_errors=True)
    _run(
        [base, "-m", "venv", str(folder)],
        VENV_DEADLINE_S,
        "python3-venv is missing: install the package python3-venv by hand",
    )
    python = str(folder / "bin" / "python")
    _install(python)
    _run([python, "-I", "-W", "ignore", "-c", _PROBE], VENV_DEADLINE_S, "the installed packages cannot be imported")
    (folder / STAMP).write_text(f"{time.time():.0f}\n", encoding="ascii")
    log.info("made the task worker's environment in %.0f s", time.monotonic() - began_s)


def _run(argv: list[str], deadline_s: float, otherwise: str) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=deadline_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ProvisionError(f"{' '.join(argv[:3])} did not end within {deadline_s:.0f} s") from error
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise ProvisionError(f"{otherwise} ({' '.join(last)[:300]})")


def _install(python: str) -> None:
    """Install exactly what is pinned. ``--no-deps``: desktop-env's own list wants torch, and the pins are complete."""
    argv = [
        python,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-input",
        "--progress-bar",
        "off",
        "--disable-pip-version-check",
    ]
    total = len(_pins())
    lines: list[str] = []
    collected = 0
    ends_s = time.monotonic() + INSTALL_DEADLINE_S
    with subprocess.Popen(
        [*argv, "-r", str(REQUIREMENTS)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("Collecting "):
                collected += 1
                if collected % _LOG_EVERY == 0 or collected == total:
                    log.info("%d of %d packages fetched", collected, total)
            elif line.startswith("Installing collected packages"):
                log.info("unpacking %d packages", total)
            if time.monotonic() > ends_s:
                process.kill()
                raise ProvisionError(f"the packages could not be fetched within {INSTALL_DEADLINE_S:.0f} s")
    if process.returncode:
        raise ProvisionError(_why(lines))


def _why(lines: list[str]) -> str:
    """Return the sentence for a refused install."""
    text = "\n".join(lines)
    if "No space left" in text:
        return (
            "no space is left for the task worker's environment: it needs 1.5 GB (OSWORLD_CACHE_DIR chooses the place)"
        )
    if found := _REFUSED.search(text) or _FAILED_BUILD.search(text):
        return f"pip could not get {found[1]}: install it by hand, or check the package index and the network"
    last = next((line for line in reversed(lines) if line.startswith("ERROR")), "no message")
    return f"pip could not install the task worker's packages: {last[:300]}"


def _turn(link: Path, folder: Path) -> None:
    """Have `link` lead to `folder`, in one move, and remove what neither it nor its predecessor leads to."""
    before = link.resolve() if link.is_symlink() else None
    if before == folder.resolve():
        return
    if link.exists() and not link.is_symlink():
        shutil.rmtree(link)
    aside = link.with_name(f"{link.name}.next")
    aside.unlink(missing_ok=True)
    aside.symlink_to(folder.name)
    aside.replace(link)
    for other in link.parent.glob(f"{link.name}-*"):
        if other.resolve() not in {folder.resolve(), before}:
            shutil.rmtree(other, ignore_errors=True)


def main() -> None:
    """Make the environment, and end with a verdict."""
    set_up_logging("INFO")
    try:
        python = provision()
    except ProvisionError as error:
        log.error("the task worker's environment could not be made: %s", error)  # noqa: TRY400 - one sentence is asked for
        raise SystemExit(1) from None
    log.info("the task worker's environment is ready: %s", python)


if __name__ == "__main__":
    main()
