"""A rank of ``clear-dist unlearn`` (its flags follow), of which rank 1 falls asleep in its third step."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from clear_dist import cli
from clear_dist.engine import loop

step = loop.one_step


def asleep(run: Any, number: int, *rest: Any) -> Any:
    if number == 2 and os.environ["RANK"] == "1":
        time.sleep(1000)
    return step(run, number, *rest)


if __name__ == "__main__":
    loop.one_step = asleep
    sys.exit(cli.main(["unlearn", *sys.argv[1:]]))
