"""fsbench: train with sharpness-aware optimizers, measure sharpness, write the papers' tables."""

__version__ = "0.1.0"
