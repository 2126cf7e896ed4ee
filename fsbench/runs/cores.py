"""How many cores this process may use."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Those it is bound to, where that is known; else all of the machine's."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
