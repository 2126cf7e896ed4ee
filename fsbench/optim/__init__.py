"""Sharpness-aware optimizers over any base optimizer; usable without the rest of fsbench."""

from fsbench.geometries import Geometry
from fsbench.optim.descent import Descent
from fsbench.optim.fisher_trace import FisherTrace
from fsbench.optim.processes import Processes
from fsbench.optim.sharpness_aware import ASAM, FSAM, GSAM, SAM, FriendlySAM, SharpnessAware

__all__ = [
    "ASAM",
    "FSAM",
    "GSAM",
    "SAM",
    "Descent",
    "FisherTrace",
    "FriendlySAM",
    "Geometry",
    "Processes",
    "SharpnessAware",
]
