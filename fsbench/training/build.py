"""From checked options to the objects of a training run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fsbench.config.optimizer import (
    AdamOptions,
    BaseOptions,
    OptimizerOptions,
)
from fsbench.errors import UsageError
from fsbench.optim import ASAM, FSAM, SAM, Descent, FisherTrace, Processes

_BASES: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def build_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("trainer.device", name, "no CUDA device was found; use cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def build_optimizer(
    model: nn.Module,
    options: OptimizerOptions,
    base: BaseOptions,
    max_norm: float | None,
    processes: Processes | None = None,
    fused: bool = False,
) -> Descent:
    """The method over its base optimizer, on the named parameters that are trained.

    Args:
        processes: those that share each batch.
        fused: torch's fused base optimizer.
    """
    params = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    below: dict[str, Any] = base.model_dump(exclude={"name"})
    if isinstance(base, AdamOptions):
        below["betas"] = tuple(base.betas)
    if fused:
        below["fused"] = True
    own = options.model_dump(exclude={"name", "lr"})
    return _METHODS[options.name](
        params,
        _BASES[base.name],
        lr=options.lr,
        max_norm=max_norm,
        model=model,
        processes=processes,
        **own,
        **below,
    )


_METHODS: dict[str, type[Descent]] = {
    "sgd": Descent,
    "adam": Descent,
    "adamw": Descent,
    "sam": SAM,
    "asam": ASAM,
    "fsam": FSAM,
    "fisher_trace": FisherTrace,
}
