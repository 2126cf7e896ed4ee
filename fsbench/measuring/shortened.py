"""Long lists in what is printed; the record keeps them whole."""

from __future__ import annotations

import re

# Tensors and layers of a network, say: names without spaces.
_LIST = re.compile(r"[^\s,;()]+(?:, [^\s,;()]+){5,}")
_SHOWN = 3


def shortened(text: str) -> str:
    """`a, b, c, d, e, f` as `a, b, c and 3 more`, from six names on."""
    return _LIST.sub(_first_few, text)


def _first_few(found: re.Match[str]) -> str:
    names = found[0].split(", ")
    end = names[-1][len(names[-1].rstrip(".:")) :]
    return f"{', '.join(names[:_SHOWN])} and {len(names) - _SHOWN} more{end}"
