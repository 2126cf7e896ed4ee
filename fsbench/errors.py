"""What fsbench says when it can't go on: one line for the user, one exit code."""

from __future__ import annotations

import difflib
import errno
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

# Characters of a value in a message.
_SHOWN = 240


class FsbenchError(Exception):
    """An end that is explained by its message alone; no traceback is shown for it."""

    exit_code = 1
    said = False  # by another process of the same run


class UsageError(FsbenchError):
    """Bad input: which key, which value, what is allowed.

    The message reads `key=value: problem`; raise it before anything is written to disk.
    """

    exit_code = 2

    def __init__(self, key: str, value: object, problem: str) -> None:
        super().__init__(f"{key}={_short(value)}: {problem}" if key else problem)
        self.key, self.value, self.problem = key, value, problem

    def __reduce__(self):
        return type(self), (self.key, self.value, self.problem)


class Diverged(FsbenchError):
    """Training met too many non-finite gradients or losses in a row."""

    exit_code = 4


class Interrupted(FsbenchError):
    """Ctrl-C, SIGTERM and the like; a checkpoint was left and the same command resumes."""

    exit_code = 130


# What the operating system says of paths that were given: too long, not there, not to be entered, not a directory ...
_OF_PATHS = {
    errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EPERM,
    errno.EROFS,
}  # fmt: skip


def bad_input(failure: BaseException) -> UsageError | None:
    """What a library met in the end, as the bad input that it stands for; None where it is another failure."""
    if isinstance(failure, RecursionError):
        return UsageError("", "", "what was given is nested too deeply to be read")
    if isinstance(failure, UnicodeError):
        return UsageError("", "", f"what was given is no text: {first_line(failure)}")
    if isinstance(failure, (MemoryError, OverflowError)):
        return UsageError("", "", f"what was given is too large: {first_line(failure)}")
    if isinstance(failure, OSError) and failure.errno in _OF_PATHS and failure.filename is not None:
        return UsageError("", "", f"{_short(failure.filename)}: {failure.strerror}")
    return None


def check_signals() -> None:
    """Raise for a signal that came, where its own exception was lost on the way, in a destructor say."""
    handler: Any = signal.getsignal(signal.SIGINT)
    if getattr(handler, "requested", False):
        handler.check()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or the empty string where nothing known is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


def portable(failure: BaseException | None) -> BaseException | None:
    """The failure as it can be sent to another process; where it can't, our own with the same line."""
    import pickle

    try:
        pickle.loads(pickle.dumps(failure))
    except Exception:
        return None if failure is None else FsbenchError(one_line(failure))
    return failure


def one_line(failure: BaseException) -> str:
    """What is said of a failure: our own message, or the type and the first line of another's."""
    if isinstance(failure, FsbenchError):
        return " ".join(str(failure).split())
    return f"{type(failure).__name__}: {first_line(failure)}"


def traceback_wanted() -> bool:
    """Whether HYDRA_FULL_ERROR=1 asks for the traceback of what is said in one line otherwise."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


@contextmanager
def failing_in_a_line(title: str) -> Iterator[None]:
    """Have another's exception end the command in one line, unless its traceback is wanted."""
    try:
        yield
    except FsbenchError:
        raise
    except Exception as failure:
        if traceback_wanted():
            raise
        raise FsbenchError(f"{title}: failed, {one_line(failure)}") from failure


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 40]}... ({len(text)} characters)"


def first_line(failure: BaseException) -> str:
    """The first line of an exception's message, or its type where it has none."""
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return lines[0] if lines else type(failure).__name__
