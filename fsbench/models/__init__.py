"""Backbones: one file per family, each with `build(options, shape, classes)`."""

from fsbench.models.build import build_model, parameter_count

__all__ = ["build_model", "parameter_count"]
