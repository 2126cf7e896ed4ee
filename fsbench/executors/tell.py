"""What is said while runs go on."""

from __future__ import annotations

import sys


def tell(line: str) -> None:
    """A line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)
