"""The caption of a table or figure: what it shows, where it is from, and what was cut."""

from __future__ import annotations

from collections.abc import Iterable

from fsbench.papers.artefact import Artefact


def caption(artefact: Artefact, cuts: Iterable[str]) -> str:
    """Title, source, what was cut, and what a reader must know; each sentence with a full stop, none of them twice."""
    return sentences([artefact.title, artefact.source, *cuts, *artefact.notes])


def sentences(texts: Iterable[str]) -> str:
    """The texts as one, each with its full stop, none of them twice."""
    ended = (text if text.endswith((".", "!", "?", ":")) else f"{text}." for text in map(str.strip, texts) if text)
    return " ".join(dict.fromkeys(ended))
