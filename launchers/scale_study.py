"""`clear-dist scale-study` from a clone, installed or not; needs no launcher: points start ranks of their own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clear_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["scale-study", *sys.argv[1:]]))
