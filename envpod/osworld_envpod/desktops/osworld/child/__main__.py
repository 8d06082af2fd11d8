"""Entry: ``python -I .../child/__main__.py PROVIDER DESCRIPTOR OPTIONS``. Boots one machine and keeps it until its end.

DESCRIPTOR is a socket: one JSON object a line, both ways. Its end is the order to end, whatever this process is at; the
kernel closes it with an env server that is killed, so no machine outlives its env server. Loaded by its place in the
file system, as the task worker's child is.
"""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

NAME = "osworld_provider_child"


def main() -> None:
    """Serve one machine."""
    folder = Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = package
    spec.loader.exec_module(package)
    provider, descriptor, options = sys.argv[1:]
    importlib.import_module(f"{NAME}.service").serve(provider, int(descriptor), json.loads(options))


if __name__ == "__main__":
    main()
