"""Writing a file so that a reader, or a crash, never meets half of it."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsbench.errors import UsageError

_SUFFIX = ".part"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; flushed to disk and moved into place on success, removed on failure.

    Raises:
        UsageError: the disk is full or the quota is used up.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}{_SUFFIX}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as failure:
        if failure.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path.parent) from None
        raise
    finally:
        part.unlink(missing_ok=True)


def disk_full(directory: Path) -> UsageError:
    return UsageError("runs_dir", directory, "no space left on the disk; what was saved before is whole")


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(finite(row), allow_nan=False) + "\n" for row in rows))


def finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: None stands for them."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def remove_parts(directory: Path) -> None:
    """Remove what a killed process left behind; call it holding the directory's lock."""
    for part in directory.glob(f".*{_SUFFIX}"):
        part.unlink(missing_ok=True)
