"""From checked options to the objects of a training run."""

from __future__ import annotations

from typing import Any

from torch import nn

from fsbench.config.optimizer import BaseOptions, OptimizerOptions
from fsbench.optim import Descent, Processes


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
    below: dict[str, Any] = {**base.arguments(), **({"fused": True} if fused else {})}
    return options.built_by()(
        params,
        base.built_by(),
        lr=options.lr,
        max_norm=max_norm,
        model=model,
        processes=processes,
        **{**below, **options.arguments()},
    )
