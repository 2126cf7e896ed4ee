"""Lines on stdout and stderr; that one of them can't be said never ends the work."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
import unicodedata
from collections.abc import Container, Iterator, Sequence
from typing import TextIO

# Tensors and layers of a network, say: names without spaces.
_LONG_LIST = re.compile(r"[^\s,;()]+(?:, [^\s,;()]+){5,}")
_FIRST_NAMES = 3


def say(line: str) -> None:
    """A result on stdout."""
    _line(line, sys.stdout)


def tell(line: str) -> None:
    """A line on stderr, at once."""
    _line(line, sys.stderr)


def shown_on_terminal() -> bool:
    """Whether a person looks at stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


def aligned(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> Iterator[str]:
    """Rows of cells as lines, each column as wide as its widest cell.

    Args:
        right: columns that are set flush right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            text.rjust(width) if i in right else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def steady_streams() -> None:
    """Open the standard streams that the process lacks, and let them spell what they have no letters for."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which a file of ours would be given else, and the words of libraries with it.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))
    codecs.register_error("spelt", _spelt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "backslashreplace", "surrogateescape"):
            stream.reconfigure(errors="spelt")


def flushed() -> OSError | None:
    """Write what is still held back; why stdout could not take it, unless nobody reads it any more."""
    failure = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as met:
            _to_nowhere(stream)
            failure = met if stream is sys.stdout and not isinstance(met, BrokenPipeError) else failure
    return failure


def _line(line: str, stream: TextIO) -> None:
    try:
        print(printable(line), file=stream, flush=True)
    except OSError:  # closed at the other end (`| head`), or on a full disk
        _to_nowhere(stream)


def printable(text: str) -> str:
    """`text` for a terminal: control characters and those that turn or hide others are spelt out (`\\x1b`)."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character in "\n\t" or character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")


def _to_nowhere(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _spelt(failure: UnicodeError) -> tuple[str, int]:
    """`+-` for the plus-minus sign, a number for other letters."""
    assert isinstance(failure, UnicodeEncodeError)
    text = failure.object[failure.start : failure.end].replace("±", "+-")
    return text.encode("ascii", "backslashreplace").decode("ascii"), failure.end


def shortened(text: str) -> str:
    """`a, b, c, d, e, f` as `a, b, c and 3 more`, from six names on; records keep them whole."""
    return _LONG_LIST.sub(_first_few, text)


def _first_few(found: re.Match[str]) -> str:
    names = found[0].split(", ")
    end = names[-1][len(names[-1].rstrip(".:")) :]
    return f"{', '.join(names[:_FIRST_NAMES])} and {len(names) - _FIRST_NAMES} more{end}"
