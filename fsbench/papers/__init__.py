"""The papers: a file for each, which declares its tables and figures, and `numbers/` with what they print."""

from fsbench.papers.collect import add_paper, add_papers, artefacts, read

__all__ = ["add_paper", "add_papers", "artefacts", "read"]
