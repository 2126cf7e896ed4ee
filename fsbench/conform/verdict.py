"""What came of a check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Verdict:
    """What came of a check.

    Args:
        check, sentence: its name, and what it says.
        verdict: `equal`; `differs`; `raises`; `not offered`, where it can't be made with what the check asks for; or
            `did not end`.
        difference: how far off; None where no number says it.
        note: what it is equal to instead, or what was raised.
        script: lines that show it, where it failed.
    """

    check: str
    sentence: str
    verdict: str
    difference: float | None = None
    note: str = ""
    script: str = ""

    @property
    def failed(self) -> bool:
        return self.verdict not in ("equal", "not offered")
