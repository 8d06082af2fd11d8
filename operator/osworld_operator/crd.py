"""``python -m osworld_operator.crd``: writes the definition and the chart's copy of it, where the checkout has them.

``make crd`` runs it; a test compares the files with what it would write.
"""

import sys
from pathlib import Path
from typing import Any, Final

import yaml

from osworld_contract.kube_names import CRD_NAME
from osworld_operator.crd_manifest import crd_manifest

DEFINITIONS: Final = (
    Path("crds", f"{CRD_NAME}.yaml"),
    Path("charts", "osworld-env", "files", f"{CRD_NAME}.yaml"),
)
"""The one source, and the chart's copy: helm reads no file outside of a chart."""
HEADER: Final = "# Made by `make crd` from contract/osworld_contract/crd. Change it there.\n"
LINE_CHARS: Final = 120


class _Dumper(yaml.SafeDumper):
    """Without anchors, which a reader would have to follow."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def definition_text() -> str:
    """Return the file in ``crds/``."""
    return HEADER + yaml.dump(crd_manifest(), Dumper=_Dumper, sort_keys=False, width=LINE_CHARS)


def main() -> int:
    """Write the files below the working directory."""
    for path in DEFINITIONS:
        path.write_text(definition_text())
        sys.stderr.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
