"""How messages name a network."""

from __future__ import annotations

from fsbench.config.model import ModelOptions


def choice(options: ModelOptions) -> str:
    """The family with what distinguishes the network in it, such as `wrn(depth=28, width=10, dropout=0.0)`."""
    details = options.model_dump(exclude={"family", "checkpoint", "pretrained"})
    listed = ", ".join(f"{key}={value}" for key, value in details.items())
    return f"{options.family}({listed})" if listed else options.family


def images(shape: tuple[int, int, int]) -> str:
    """`images of C x H x W`."""
    return f"images of {shape[0]} x {shape[1]} x {shape[2]}"
