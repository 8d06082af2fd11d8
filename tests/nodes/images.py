"""Builds the images of the test cluster, without registry and daemon: ``python tests/nodes/images.py [NAME...]``.

The base is Debian by mmdebstrap. On it buildah runs the project's own Dockerfiles. Each ends as an archive for ``ctr
images import`` in the cache, named by a digest of what it is made from, so that a second run builds nothing. All
together are then imported once, into the folder that nodes start with.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))

from cluster.programs import find_go  # noqa: E402 - a script finds its siblings only so
from nodes.node import PAUSE_IMAGE  # noqa: E402
from nodes.store import make_store, store_of  # noqa: E402
from osworld_contract.places import cache_dir  # noqa: E402

PAUSE: Final = Path(__file__).parent / "pause"
SUITE: Final = "bookworm"
BASE_PACKAGES: Final = "python3,python3-venv,ca-certificates"
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
PIP_SETTINGS: Final = Path("/etc/pip.conf")
BASE_IMAGE: Final = "docker.io/local/base:1"
BUILD_DEADLINE_S: Final = 1500.0
EVIDENCE_LINES: Final = 20
KEPT_STORES: Final = 2
"""This checkout's, and that of another."""
ROOM_BYTES: Final = 25 * 10**9
"""What a build from nothing may write: layers, archives and the store of them all, then the nodes' own files."""


@dataclass(frozen=True)
class Image:
    """One that a Dockerfile of the project makes."""

    name: str
    dockerfile: str
    arguments: tuple[str, ...] = ()
    """For the Dockerfile, as ``NAME=value``."""

    @property
    def reference(self) -> str:
        """Return its name to Kubernetes."""
        return f"docker.io/local/{self.name}:1"


PROJECT_IMAGES: Final = (
    Image("env", "envpod/Dockerfile"),
    # Tests of the programs have their own rung; without them the image is built in half the time.
    Image("desktop", "guest/Dockerfile", ("PROGRAMS=",)),
    Image("router", "router/Dockerfile"),
    Image("operator", "operator/Dockerfile"),
    Image("node", "node/Dockerfile"),
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
    """Return the archives of all images."""
    return [pause_archive(), base_archive(), *map(archive, PROJECT_IMAGES)]


def ready_store() -> Path:
    """Return the containerd folder with all images that nodes start with.

    Raises:
        ImageError: It is not made.
    """
    path = store_of(all_archives(), folder())
    if not path.exists():
        raise ImageError("the images of the nodes are not built: run `make setup-nodes`")
    return path


def build(names: Iterable[str]) -> None:
    """Build those of `names` that are missing; pause and base always.

    Raises:
        ImageError: One does not build.
    """
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        archives = all_archives()
        store = store_of(archives, folder())
        if store.exists():
            store.touch()
            return
        _make_room(archives)
        _once(pause_archive(), _build_pause)
        _once(base_archive(), _build_base)
        for image in PROJECT_IMAGES:
            if image.name in names:
                _once(archive(image), partial(_build_image, image))
        _buildah("rm", "--all")  # of builds that were killed: what they were made of could not be removed
        _buildah("rmi", "--prune")
        if all(path.exists() for path in archives):
            _once(store, partial(make_store, archives))
            for old in (*map(archive, PROJECT_IMAGES), *_stores()[KEPT_STORES:]):
                _remove(old)


def _once(target: Path, make: Callable[[Path], None]) -> None:
    if target.exists():
        return
    began = time.monotonic()
    _say(f"building {target.stem}")
    part = target.with_suffix(".part")
    _remove(part)
    make(part)
    part.rename(target)
    _say(f"built {target.stem} in {time.monotonic() - began:.0f} s")


def _make_room(archives: Sequence[Path]) -> None:
    """Remove what builds before left, and stores of other checkouts as long as the disk has no room for one more."""
    for left in (*folder().glob("*.part"), *set(folder().glob("*.tar")).difference(archives)):
        _remove(left)
    for old in reversed(_stores()):
        if shutil.disk_usage(folder()).free < ROOM_BYTES:
            _remove(old)
    free = shutil.disk_usage(folder()).free
    if free < ROOM_BYTES:
        _say(f"{free / 1e9:.0f} GB free at {folder()}: building and running may need {ROOM_BYTES / 1e9:.0f} GB")


def _stores() -> list[Path]:
    """Return the stores that are made, the newest first."""
    found = [path for path in folder().glob("store-*") if path.suffix != ".part"]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
    argv = ["build", "--layers", "--isolation=chroot", "--network=host", "--pull-never"]
    argv += [f"--file={image.dockerfile}", f"--tag={image.reference}"]
    for argument in (f"BASE={BASE_IMAGE}", *image.arguments):
        argv.append(f"--build-arg={argument}")
    for name in ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL"):
        if name in os.environ:
            argv.append(f"--build-arg={name}={os.environ[name]}")
    _buildah(*argv, ".")
    _buildah("push", image.reference, f"docker-archive:{part}:{image.reference}")


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
    """Return what the Dockerfiles may copy: of all that git has or would have, what ``.dockerignore`` lets through."""
    rules = (CHECKOUT / ".dockerignore").read_text().split()
    tops = tuple(rule.removeprefix("!") for rule in rules if rule.startswith("!"))
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *tops]
    paths = [CHECKOUT / name for name in _run(argv, cwd=CHECKOUT).split("\0") if name]
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
