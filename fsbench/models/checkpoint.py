"""Weights from a file into a network, without running code from it."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from fsbench.errors import UsageError

log = logging.getLogger("fsbench")

_KEY = "model.checkpoint"
# Where others put the weights; the first that is there, whatever averages of them lie beside it.
_NESTS = ("model", "state_dict", "model_state_dict", "net")


def load_weights(model: nn.Module, path: str) -> None:
    """Copy the weights in a safetensors or torch file into `model`.

    The weights may lie under a key such as "model" or "state_dict", and their names begin with what wrappers put before
    them ("module.", "_orig_mod."), where they fit without it. A classifier for another number of classes stays as
    initialised. The log says both. Raises UsageError where the file is missing, damaged, holds more
    than tensors and plain values, or has other weights than the network.
    """
    expected = model.state_dict()
    given = _without_prefix(_weights(path), expected, path)
    for layer in _classifiers(model):
        _keep_other_classes(layer, given, expected, path)
    missing = [name for name in expected if name not in given and _counts(name)]
    unknown = [name for name in given if name not in expected]
    lacks = [f"lacks {_some(missing)}"] if missing else []
    has = [f"has {_some(unknown)}, which the network doesn't"] if unknown else []
    if lacks or has:
        raise UsageError(_KEY, path, f"holds the weights of another network: the file {' and '.join(lacks + has)}")
    for name, tensor in given.items():
        here, there = tuple(expected[name].shape), tuple(tensor.shape)
        if here != there:
            problem = f"{name} has shape {there} in the file and {here} here"
            raise UsageError(_KEY, path, f"holds the weights of another network: {problem}")
    model.load_state_dict({**expected, **given})


def _classifiers(model: nn.Module) -> list[str]:
    """The layers that give the logits: timm says which, elsewhere it is the last linear layer."""
    named = getattr(model, "pretrained_cfg", {}).get("classifier")
    if named:
        return [named] if isinstance(named, str) else list(named)
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]


def _keep_other_classes(
    layer: str, given: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], path: str
) -> None:
    """Where `layer` differs in its outputs alone, replace what the file has for it by the initial weights."""
    weight = f"{layer}.weight"
    if weight not in given or weight not in expected:
        return
    there, here = given[weight].shape, expected[weight].shape
    if there[1:] != here[1:] or there[:1] == here[:1]:
        return
    message = "%s: the classifier %s has %d outputs, not %d, and stays as initialised"
    log.info(message, path, layer, there[0], here[0])
    for name in (weight, f"{layer}.bias"):
        given.pop(name, None)
        if name in expected:
            given[name] = expected[name]


def _without_prefix(
    given: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], path: str
) -> dict[str, torch.Tensor]:
    """Names without what all of them begin with ("module.", also "module._orig_mod."), where only so they fit."""
    first = next(iter(given))
    for prefix in (first[: end + 1] for end, letter in enumerate(first) if letter == "."):
        if not all(name.startswith(prefix) for name in given):
            break
        bare = {name.removeprefix(prefix): tensor for name, tensor in given.items()}
        if not expected.keys() & given.keys() and bare.keys() >= {name for name in expected if _counts(name)}:
            log.info("%s: all names begin with %s, which is taken off", path, prefix)
            return bare
    return given


def _counts(name: str) -> bool:
    # files from before PyTorch 0.4.1 don't count batches
    return not name.endswith("num_batches_tracked")


def _weights(path: str) -> dict[str, torch.Tensor]:
    content = _read(path)
    for _ in range(2):  # some have "state_dict" below "model"
        if isinstance(content, Mapping) and (nest := _nest(content, path)) is not None:
            content = content[nest]
    if not isinstance(content, Mapping) or not content:
        raise UsageError(_KEY, path, "holds no weights; a table of tensors by name is needed")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise UsageError(
                _KEY, path, f"holds more than tensors by name: {name!r} is of type {type(tensor).__name__}"
            )
    return dict(content)


def _nest(content: Mapping[str, object], path: str) -> str | None:
    """The key below which the weights lie, if any; UsageError where several could be it."""
    tables = [
        key
        for key, value in content.items()
        if isinstance(value, Mapping) and value and all(isinstance(one, torch.Tensor) for one in value.values())
    ]
    known = [key for key in _NESTS if isinstance(content.get(key), Mapping)]
    if not known and len(tables) > 1:
        raise UsageError(_KEY, path, f"tables of tensors lie under the keys {', '.join(map(str, tables))}; keep one")
    return next(iter(known or tables), None)


def _read(path: str) -> object:
    if not Path(path).is_file():
        raise UsageError(_KEY, path, "there is no such file")
    try:
        with open(path, "rb") as file:
            if file.read(9)[8:] == b"{":  # safetensors: eight bytes of length, then JSON
                return load_file(path)
            file.seek(0)
            with warnings.catch_warnings(action="ignore"):  # of what is no file of torch's
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises weights_only=False, which is what must not be done here
        raise UsageError(
            _KEY, path, "is damaged or holds more than tensors and plain values; code in a checkpoint is never run"
        ) from error
    except Exception as error:  # torch and safetensors raise many types for a file cut short
        raise UsageError(
            _KEY, path, "can't be read as a safetensors or torch file; it is damaged or cut short"
        ) from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
