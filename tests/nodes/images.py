"""Builds the images of the test cluster, without registry and daemon: ``python tests/nodes/images.py [NAME...]``.

The base is Debian by mmdebstrap. On it buildah runs the project's own Dockerfiles. Each ends as an archive for ``ctr
images import`` in the cache, named by a digest of what it is made from, so that a second run builds nothing.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))

from cluster.programs import find_go  # noqa: E402 - a script finds its siblings only so
from nodes.node import PAUSE_IMAGE  # noqa: E402
from osworld_contract.places import cache_dir  # noqa: E402

PAUSE: Final = Path(__file__).parent / "pause"
SUITE: Final = "bookworm"
BASE_PACKAGES: Final = "python3,python3-venv,ca-certificates"
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
PIP_SETTINGS: Final = Path("/etc/pip.conf")
BASE_IMAGE: Final = "docker.io/local/base:1"
BUILD_DEADLINE_S: Final = 1500.0
EVIDENCE_LINES: Final = 20
KEPT_ARCHIVES: Final = 3
"""Of one name: this checkout's, and those of two others."""


@dataclass(frozen=True)
class Image:
    """One that a Dockerfile of the project makes."""

    name: str
    dockerfile: str

    @property
    def reference(self) -> str:
        """Return its name to Kubernetes."""
        return f"docker.io/local/{self.name}:1"


PROJECT_IMAGES: Final = tuple(
    Image(name, f"{folder}/Dockerfile")
    for name, folder in {
        "env": "envpod",
        "desktop": "guest",
        "router": "router",
        "operator": "operator",
        "node": "node",
    }.items()
    if (CHECKOUT / folder / "Dockerfile").exists()
)


class ImageError(Exception):
    """An image cannot be built. The message says what failed."""


def folder() -> Path:
    """Return the folder of the archives."""
    return cache_dir() / "test-cluster" / "images"


def pause_archive() -> Path:
    """Return the archive of the image that holds a pod's namespaces."""
    return folder() / f"pause-{_digest(PAUSE.iterdir())}.tar"


def base_archive() -> Path:
    """Return the archive of the base: Debian with Python, which tests without the project's images run as well."""
    return folder() / f"base-{_digest(filter(Path.exists, (CERTIFICATES, PIP_SETTINGS)), SUITE, BASE_PACKAGES)}.tar"


def archive(image: Image) -> Path:
    """Return the archive of a project's image, built or not."""
    return folder() / f"{image.name}-{_digest(_sources())}.tar"


def all_archives() -> list[Path]:
    """Return the archives of all images.

    Raises:
        ImageError: One is not built.
    """
    found = [pause_archive(), base_archive(), *map(archive, PROJECT_IMAGES)]
    for path in found:
        if not path.exists():
            raise ImageError(f"{path.name} is not built: run `make setup-nodes`")
    return found


def build(names: Iterable[str]) -> None:
    """Build those of `names` that are missing; pause and base always.

    Raises:
        ImageError: One does not build.
    """
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _once(pause_archive(), _build_pause)
        _once(base_archive(), _build_base)
        for image in PROJECT_IMAGES:
            if image.name in names:
                _once(archive(image), partial(_build_image, image))


def _once(target: Path, make: Callable[[Path], None]) -> None:
    if target.exists():
        target.touch()
        return
    began = time.monotonic()
    _say(f"building {target.stem}")
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    make(part)
    part.rename(target)
    _say(f"built {target.stem} in {time.monotonic() - began:.0f} s ({target.stat().st_size >> 20} MiB)")
    _prune(target)


def _prune(newest: Path) -> None:
    name = newest.name.rpartition("-")[0]
    found = sorted(folder().glob(f"{name}-*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in found[KEPT_ARCHIVES:]:
        old.unlink()


def _build_pause(part: Path) -> None:
    program = folder() / "pause"
    environment = {**os.environ, "CGO_ENABLED": "0"}
    _run([find_go(), "build", "-trimpath", "-ldflags", "-s -w", "-o", str(program), "."], cwd=PAUSE, env=environment)
    container = _from("scratch")
    _buildah("copy", container, str(program), "/pause")
    _buildah("config", "--entrypoint", '["/pause"]', container)
    _commit(container, PAUSE_IMAGE, part)


def _build_base(part: Path) -> None:
    root = folder() / "base-root.tar"
    _run(["mmdebstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", SUITE, str(root)])
    container = _from("scratch")
    _buildah("add", container, str(root), "/")
    # A machine with an authority or a mirror of its own names them here; pip has a list of authorities of its own.
    for path in (CERTIFICATES, PIP_SETTINGS):
        if path.exists():
            _buildah("copy", container, str(path), str(path))
    _buildah("config", "--env", f"PIP_CERT={CERTIFICATES}", "--env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", container)
    _commit(container, BASE_IMAGE, part)
    root.unlink()


def _build_image(image: Image, part: Path) -> None:
    argv = ["build", "--isolation=chroot", "--network=host", f"--build-arg=BASE={BASE_IMAGE}", "--pull-never"]
    argv += [f"--file={image.dockerfile}", f"--tag={image.reference}"]
    for name in ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL"):
        if name in os.environ:
            argv.append(f"--build-arg={name}={os.environ[name]}")
    _buildah(*argv, ".")
    _buildah("push", image.reference, f"docker-archive:{part}:{image.reference}")
    # What is left of this build's first stage and of builds before is never used again: the sources go in first.
    _buildah("rmi", "--prune", "--force")


def _from(base: str) -> str:
    return _buildah("from", base).strip()


def _commit(container: str, reference: str, part: Path) -> None:
    _buildah("commit", "--rm", container, reference)
    _buildah("push", reference, f"docker-archive:{part}:{reference}")


def _buildah(command: str, *argv: str) -> str:
    places = [f"--root={folder() / 'storage'}", f"--runroot={folder() / 'run'}", "--storage-driver=overlay"]
    return _run(["buildah", *places, command, *argv], cwd=CHECKOUT)


def _run(argv: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    if shutil.which(argv[0]) is None:
        raise ImageError(f"{argv[0]} is missing: run `make setup-nodes`")
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=BUILD_DEADLINE_S, check=False)
    if done.returncode != 0:
        evidence = "\n".join((done.stdout + done.stderr).splitlines()[-EVIDENCE_LINES:])
        raise ImageError(f"{' '.join(argv)}: exit code {done.returncode}\n{evidence}")
    return done.stdout


def _sources() -> list[Path]:
    """Return what the Dockerfiles may copy: all that git has or would have, but tests and papers."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = [name for name in _run(argv, cwd=CHECKOUT).split("\0") if name]
    left_out = ("tests/", "docs/", "benchmarks/", "examples/", "CHANGELOG.md", "Makefile")
    paths = [CHECKOUT / name for name in names if not name.startswith(left_out)]
    return [path for path in paths if path.is_file()]


def _digest(paths: Iterable[Path], *words: str) -> str:
    digest = hashlib.sha256(" ".join(words).encode())
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _say(text: str) -> None:
    sys.stderr.write(f"==> {text}\n")
    sys.stderr.flush()


def main() -> int:
    """Build the images that are named, or all."""
    try:
        build(sys.argv[1:] or [image.name for image in PROJECT_IMAGES])
    except ImageError as error:
        _say(f"test cluster: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
