"""A pool of one machine under emulation: its image comes over http, its resets are forks, its cache is the node's."""

import functools
import hashlib
import re
import subprocess
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

import pytest

from chaos.player import SAYING, SCRIPTS, Script, play
from nodes.places import HOST
from nodes.pool_rig import RunningPool, running_pool
from nodes.real_cluster import RealCluster
from osworld_guest.image.build import find

pytestmark = pytest.mark.timeout(900)
"""The first test waits for the cluster, the image's way into the pod and a boot under emulation."""

NAMESPACE: Final = "emulated"
READY_S: Final = 600.0
ARCHIVE: Final = "desktop.zip"
BOOTSTRAP: Final = Path(__file__).parents[2] / "deploy" / "ec2" / "bootstrap.sh"

WITHOUT_FFMPEG: Final = Script({**SAYING, "config": SAYING["config"][:2]}, SCRIPTS[0].predictions, SCRIPTS[0].score)
"""Our machines' image has no ffmpeg, by which the task waits for a screen at rest."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Address and hash of our guest image, as a file server has it."""
    folder = tmp_path_factory.mktemp("image")
    built = find()
    with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_STORED) as archive:
        for path in (built.disk, built.kernel, built.initrd):
            archive.write(path, path.name)
    with (folder / ARCHIVE).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    with ThreadingHTTPServer((HOST, 0), functools.partial(SimpleHTTPRequestHandler, directory=str(folder))) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield {"url": f"http://{HOST}:{server.server_address[1]}/{ARCHIVE}", "sha256": sha256}
        server.shutdown()
    Path(folder / ARCHIVE).unlink()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the nodes, which have the files of this machine, made as deploy/ec2 makes it."""
    path = tmp_path_factory.mktemp("node") / "cache"
    [made] = re.findall(r"install -d .*", BOOTSTRAP.read_text())
    subprocess.run([*made.split()[:-1], str(path)], check=True)
    return path


@pytest.fixture(scope="module")
def machine(cluster: RealCluster, image: dict[str, str], cache: Path) -> Iterator[RunningPool]:
    """One env, no spare."""
    spec = {
        "replicas": 1,
        "spares": 0,
        "desktop": {
            "provider": "qemu",
            "accelerator": "tcg",
            "cpus": 2,
            "memory": "1Gi",
            "disk": "8Gi",
            "image": image,
        },
        "cache": {"hostPath": {"path": str(cache)}},
        "episode": {"stepPause": "100ms", "resetTimeout": "10m"},
        "podTemplate": {"resources": {"requests": {"cpu": "200m", "memory": "1Gi"}}},
        "router": {"hedgeAfter": "10m", "service": {"type": "NodePort"}},
    }
    with running_pool(cluster, NAMESPACE, spec, READY_S, "privileged") as running:
        yield running


def test_episodes_on_a_forked_machine_score_right(machine: RunningPool) -> None:
    for _ in range(2):
        outcome = play(f"{machine.url()}/envs/0", machine.token, WITHOUT_FFMPEG)
        assert outcome.is_right and not outcome.illegal and not outcome.errors, outcome


def test_its_cache_is_the_nodes(machine: RunningPool, cache: Path) -> None:
    assert {path.name for path in cache.iterdir()} >= {"fetched-images", "vm-templates", "vm-snapshots", "episodes"}


def test_the_env_says_what_it_runs_on(machine: RunningPool) -> None:
    state = machine.look("/envs/0/state")
    facts = state["desktop"]["facts"]
    assert (facts["provider"], facts["accelerator"]) == ("qemu", "tcg")
