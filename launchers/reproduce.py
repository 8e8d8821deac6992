"""`clear-dist reproduce` on several ranks: torchrun --nproc-per-node N launchers/reproduce.py RUN."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clear_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))
