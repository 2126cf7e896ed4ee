"""The made-up paper of the reproductions' tests."""

from reproduce.conftest import papers

__all__ = ["papers"]
