"""Writing a file so that a reader, or a crash, never meets half of it."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fsbench.errors import UsageError

_SUFFIX = ".part"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; flushed to disk and moved into place on success, removed on failure.

    Several processes may write the same file at once: the last one's stays, whole.

    Raises:
        UsageError: the disk is full or the quota is used up.
    """
    try:
        with _part(path.parent, path.name) as part:
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
    except OSError as failure:
        if failure.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path.parent) from None
        raise


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """Yield a new directory below `parent` that this user alone can enter; it is removed in the end."""
    with _part(parent, "fsbench", directory=True) as part:
        yield part


@contextmanager
def _part(parent: Path, name: str, directory: bool = False) -> Iterator[Path]:
    """A file or directory of a random name, locked while its writer lives: by that a leftover is told from it."""
    remove_parts(parent, name)
    while True:
        part = parent / f".{name}.{secrets.token_hex(4)}{_SUFFIX}"
        try:
            if directory:
                part.mkdir(mode=0o700)
            else:
                # A link that lies there is not followed.
                os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            lock = _opened(part)
        except FileExistsError:
            continue
        except FileNotFoundError:
            if parent.is_dir():
                continue  # taken for a leftover in the moment before it was locked
            raise
        with suppress(OSError):  # not every file system has locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if part.exists():
            break
        os.close(lock)
    try:
        yield part
    finally:
        _remove(part)
        os.close(lock)


def remove_parts(directory: Path, name: str | None = None) -> None:
    """Remove what killed processes left of files called `name`, or of any: what no living process has locked."""
    for part in directory.glob(f".{'*' if name is None else glob.escape(name)}.*{_SUFFIX}"):
        with suppress(OSError):
            lock = _opened(part)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(part)
            finally:
                os.close(lock)


def _opened(part: Path) -> int:
    return os.open(part, os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_RDONLY if part.is_dir() else os.O_RDWR))


def _remove(part: Path) -> None:
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
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
