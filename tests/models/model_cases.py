"""Networks as the config files name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from fsbench.config.model import ModelOptions
from fsbench.models import build_model

CONF = Path(__file__).parents[2] / "conf" / "model"

DIGITS, MNIST, CIFAR, IMAGENET = (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224)


def options(name: str, /, **changes: Any) -> ModelOptions:
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    return ModelOptions.model_validate({**values, **changes})


def meta_model(name: str, shape: tuple[int, int, int], classes: int, /, **changes: Any) -> nn.Module:
    """Shapes only: quick for networks of every size."""
    with torch.device("meta"):
        return build_model(options(name, **changes), shape, classes)
