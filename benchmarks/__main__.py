"""``make bench``: every benchmark in turn, each in a process of its own. Figures go to docs/benchmarks.md by hand."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """Run all; return 1 if one failed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(HERE.parent), str(HERE.parent / "tests")))}
    codes = []
    for path in sorted(HERE.glob("bench_*.py")):
        print(f"==> {path.stem}", flush=True)
        codes.append(subprocess.run([sys.executable, str(path)], env=environment, check=False).returncode)
    print("BENCH " + ("FAILED" if any(codes) else "OK"))
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
