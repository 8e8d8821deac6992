"""`clear-dist plan` from a clone, installed or not; needs no launcher."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clear_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["plan", *sys.argv[1:]]))
