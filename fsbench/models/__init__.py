"""Backbones: one file per family, with a function of (options, shape, classes) for each network."""

from fsbench.models.build import build_model, parameter_count

__all__ = ["build_model", "parameter_count"]
