"""`clear-dist attack` for deepspeed and torchrun; runs from a clone, installed or not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clear_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["attack", *sys.argv[1:]]))
