"""torch.compile of the network, with the result of the plain one."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from fsbench.errors import UsageError, first_line

# Dropout then draws what it draws without compiling; whole steps are recorded (`trainer.cuda_graph`), which nothing
# inside may be on its own.
_OPTIONS = {"fallback_random": True, "triton.cudagraphs": False}


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` compiled; the parameters and buffers are its own.

    Raises:
        UsageError: torch.compile can't make code here.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # With a product, which makes inductor recommend TF32: once, and here nobody hears it.
            probe = torch.compile(lambda x: torch.relu(x @ x) + 1, options=_OPTIONS)
            probe(torch.zeros(8, 8, device=device))
    except Exception as failure:  # whatever the compilers below raise
        problem = f"torch.compile does not work here ({first_line(failure)}); use trainer.compile=false"
        raise UsageError("trainer.compile", "true", problem) from None
    # Each size of batch (the last one, sub-batches) gets code of its own: no slower code for all sizes.
    return torch.compile(model, dynamic=False, options=_OPTIONS)
