"""The weight matrices of a network: what normalized sharpness is a sum over."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fsbench.sharpness.refused import Refused
from fsbench.sharpness.risk import Risk


@dataclass(frozen=True)
class WeightMatrix:
    """The trained weight of one linear or convolution layer.

    Args:
        name: of the weight tensor in `named_parameters()`.
        module: the layer; the first one where several share the weight.
    """

    name: str
    module: nn.Linear | _ConvNd

    def summed(self, values: Tensor) -> Tensor:
        """What belongs to each pair of an output and an input channel: (out, in), in float64.

        `values` is shaped like the weight; convolutions are summed over the kernel, and pairs of channels that are
        in different groups hold zeros.
        """
        values = values.double()
        if not isinstance(self.module, _ConvNd):
            return values
        values = values.flatten(2).sum(2)
        if isinstance(self.module, _ConvTransposeNd):
            # (in, out / groups): turned around within each group.
            blocks = values.unflatten(0, (self.module.groups, -1)).transpose(1, 2)
        else:
            blocks = values.unflatten(0, (self.module.groups, -1))
        if self.module.groups == 1:
            return blocks[0]
        groups, rows, columns = blocks.shape
        matrix = values.new_zeros(groups, rows, groups, columns)
        matrix.diagonal(dim1=0, dim2=2).copy_(blocks.permute(1, 2, 0))
        return matrix.reshape(groups * rows, groups * columns)


def _kinds(module: nn.Module) -> list[type]:
    """The classes of a module, apart from `nn.Module` itself."""
    return [kind for kind in type(module).__mro__ if issubclass(kind, nn.Module) and kind is not nn.Module]


def weight_matrices(risk: Risk) -> tuple[list[WeightMatrix], str]:
    """The trained weights of linear and convolution layers, each once, and a sentence on what is left out.

    Raises:
        Refused: there are none.
    """
    trained = {id(parameter): name for name, parameter in risk.parameters.items()}
    matrices: dict[str, WeightMatrix] = {}
    frozen, kinds, owned = 0, dict[str, int](), dict[int, str]()
    for module in risk.model.modules():
        layer = isinstance(module, nn.Linear | _ConvNd)
        for own, parameter in module.named_parameters(recurse=False):
            if layer and own == "weight":
                if id(parameter) not in trained:
                    frozen += 1
                elif trained[id(parameter)] not in matrices:
                    matrices[trained[id(parameter)]] = WeightMatrix(trained[id(parameter)], module)
            elif layer and own == "bias":
                owned.setdefault(id(parameter), "bias")
            elif any(kind.__module__.startswith("torch.nn.modules.") for kind in _kinds(module)):
                owned.setdefault(id(parameter), type(module).__name__)
            else:
                owned.setdefault(id(parameter), trained.get(id(parameter), ""))
    if not matrices:
        raise Refused("the network has no trained weight matrix of a linear or convolution layer")
    for place, name in trained.items():
        if name not in matrices:
            kind = owned.get(place, name)
            kinds[kind] = kinds.get(kind, 0) + 1
    left_out = [kind if count == 1 else f"{kind} ({count})" for kind, count in kinds.items()]
    if frozen:
        left_out.append("matrices that are not trained" + (f" ({frozen})" if frozen > 1 else ""))
    said = f"{len(matrices)} weight matrices of linear and convolution layers"
    if left_out:
        shown = left_out if len(left_out) <= 8 else [*left_out[:7], f"{len(left_out) - 7} more"]
        said += f"; left out: {', '.join(shown)}"
    return list(matrices.values()), said
