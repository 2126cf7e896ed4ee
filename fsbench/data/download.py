"""Download by torchvision into a scratch directory, then move what is complete into data_dir."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import shutil
import socket
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from fsbench.errors import UsageError

TIMEOUT = 15.0  # seconds without an answer; torchvision itself would wait for ever

_ARCHIVES = (".gz", ".tgz")
_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "not a directory",
    errno.EEXIST: "not a directory",
}


def fetch(
    label: str,
    data_dir: Path,
    download: Callable[[Path], object],
    sources: Iterable[tuple[str, str]],
    missing: Path,
) -> None:
    """Run `download(scratch)` and move the files it leaves to the same place below `data_dir`.

    A reader never sees half a file, two processes may fetch at once, and a failure leaves nothing behind,
    not even an empty directory. Downloaded archives are not kept.

    Args:
        sources: (path below data_dir, md5) of what is downloaded; those already there are used.
        missing: the file or folder whose absence asked for the download, for the message.

    Raises:
        UsageError: no network (with the three ways out), or data_dir can't be written.
    """
    made = [path for path in (data_dir, *data_dir.parents) if not path.exists()]
    arrived = False
    try:
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=data_dir))
        except OSError as failure:
            raise _cannot_write(data_dir, failure) from None
        try:
            _link_present(sources, data_dir, scratch)
            with _timeout(TIMEOUT), contextlib.redirect_stdout(sys.stderr):
                download(scratch)
            for path in [*scratch.rglob("*")]:
                if path.is_symlink() or path.suffix in _ARCHIVES:
                    path.unlink()
            _move(scratch, data_dir)
            arrived = True
        except (OSError, RuntimeError, http.client.HTTPException, EOFError, tarfile.TarError, zlib.error) as failure:
            if isinstance(failure, OSError) and failure.errno in _NO_ROOM:
                raise _cannot_write(data_dir, failure) from None
            raise UsageError(
                "data_dir",
                data_dir,
                f"{label} is not there ({missing} is missing) and could not be downloaded "
                f"({' '.join(str(failure).split()) or type(failure).__name__}). {ways_out(data_dir)}",
            ) from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    finally:
        if not arrived:
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()


def ways_out(data_dir: Path) -> str:
    """Advice where a data set is neither there nor to be had."""
    return (
        f"Either put its files below {data_dir}, or point data_dir (or $FSBENCH_DATA) at a directory that has them, "
        "or use dataset=digits, which needs no download"
    )


def _cannot_write(data_dir: Path, failure: OSError) -> UsageError:
    return UsageError("data_dir", data_dir, f"cannot be written: {_NO_ROOM.get(failure.errno or 0, failure)}")


def _link_present(sources: Iterable[tuple[str, str]], data_dir: Path, scratch: Path) -> None:
    from torchvision.datasets.utils import check_integrity

    for name, md5 in sources:
        if check_integrity(data_dir / name, md5):
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).symlink_to((data_dir / name).resolve())


def _move(origin: Path, target: Path) -> None:
    """Files and whole directories of `origin` into `target`, each in one atomic step; what is there is replaced."""
    for entry in sorted(origin.iterdir()):
        goal = target / entry.name
        if entry.is_dir() and goal.is_dir():
            _move(entry, goal)
        else:
            os.replace(entry, goal)


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
