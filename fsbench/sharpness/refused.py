"""What a measure says when it does not hold for a network or a risk."""

from __future__ import annotations

from fsbench.errors import FsbenchError


class Refused(FsbenchError, ValueError):
    """The measure is not defined here, or would be a wrong figure; the message names what stands in the way."""
