"""Entry of the worker's processes: ``python -I .../tasks/child/__main__.py worker|files ...``.

The package is loaded by its place in the file system and under a name of its own: the worker's interpreter does not
have osworld-env installed, and no folder of it may come onto ``sys.path``, where a module of ours could hide one of
a library's.
"""

import importlib
import importlib.util
import json
import socket
import sys
from pathlib import Path
from typing import Any

NAME = "osworld_task_child"


def main() -> None:
    """Be the worker (arguments: descriptors of channel and door, walls as JSON) or the file server (door, options)."""
    folder = Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = package
    spec.loader.exec_module(package)
    role, *arguments = sys.argv[1:]
    if role == "worker":
        channel, door, walls = arguments
        importlib.import_module(f"{NAME}.zygote").serve(int(channel), int(door), walls)
    else:
        _serve_files(int(arguments[0]), json.loads(arguments[1]))


def _serve_files(door: int, options: dict[str, Any]) -> None:
    importlib.import_module(f"{NAME}.guard").close()  # a runner that has no sandbox is of the same user
    downloads = importlib.import_module(f"{NAME}.downloads")
    paths = {name: Path(options[name]) if options[name] else None for name in ("mirror", "cache")}
    own = downloads.DownloadOptions(**(options | paths))
    with socket.socket(fileno=door) as ours:
        importlib.import_module(f"{NAME}.file_server").serve(ours, downloads.Downloads(own))


if __name__ == "__main__":
    main()
