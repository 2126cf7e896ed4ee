"""Results on stdout."""

from __future__ import annotations

import os
import sys


def say(line: str) -> None:
    """Print a result; a reader that went away (`| head`) does not stop the training."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
