"""``python -m clear_dist``."""

import sys

from clear_dist.cli import main

if __name__ == "__main__":
    sys.exit(main())
