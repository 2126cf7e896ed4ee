"""A network without the scale of its logits, which makes a loss flat or sharp without changing what is predicted."""

from __future__ import annotations

from torch import Tensor, nn

from fsbench.sharpness.risk import Risk


class NormalizedLogits(nn.Module):
    """o to length (o - mean(o)) / ||o - mean(o)||, for each example's logits o (n, K); zeros stay."""

    def __init__(self, length: float) -> None:
        super().__init__()
        self.length = length

    def forward(self, logits: Tensor) -> Tensor:
        centred = logits - logits.mean(-1, keepdim=True)
        return self.length * centred / centred.norm(dim=-1, keepdim=True).clamp(min=1e-10)


def logit_normalized(risk: Risk, length: float | None) -> Risk:
    """The risk of the network with logits of that length; the risk itself for None.

    Raises:
        Refused: the output is not (n, K).
        ValueError: length not above 0.

    Source: Andriushchenko et al. 2023; their code has length 1.
    """
    if length is None:
        return risk
    if not length > 0:
        raise ValueError(f"logit_norm={length}: must be above 0")
    _ = risk.classes
    return risk.like(model=nn.Sequential(risk.model, NormalizedLogits(length)))
