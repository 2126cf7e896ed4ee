"""Kernels and looks of the host at the device in each training step: scripts/bench kernels. Needs no GPU."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from benchmark import aligned, ended, names, publish, show
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fsbench.config.compose import compose_jobs
from fsbench.data.augment import batch_augment
from fsbench.models import build_model
from fsbench.optim import ASAM, FSAM, SAM, Descent, FisherTrace
from fsbench.optim.random_replay import RandomReplay
from fsbench.runs.provenance import provenance
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.precision import Precision

# Tensors without values stand for the GPU's.
DEVICE = torch.device("meta")
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "fused": True}
METHODS: dict[str, Callable[..., Descent]] = {
    "sgd": lambda p, **o: Descent(p, torch.optim.SGD, **SGD, **o),
    "sam": lambda p, **o: SAM(p, rho=0.05, **SGD, **o),
    "asam": lambda p, **o: ASAM(p, rho=0.5, **SGD, **o),
    "fsam": lambda p, **o: FSAM(p, rho=0.1, **SGD, **o),
    "fisher_trace": lambda p, **o: FisherTrace(p, start="immediately", **SGD, **o),
}
AUGMENTS = ("none", "flip", "crop4_flip", "autoaugment_cutout")

# torch's MultiTensorApply.cuh: tensors in a launch by how many lists it reads or writes, blocks, elements in a block.
TENSORS, BLOCKS, CHUNK = (110, 64, 48, 36, 30), 320, 65536
IN_A_CAT = 128  # of Shape.cu
NOT_LAUNCHED = ("empty", "new_empty", "empty_like", "empty_strided", "_unsafe_view", "resize_", "set_", "device")
LOOKS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_unique2", "masked_select")
HOW = (
    "A launch is an operation of torch on at least one tensor of the device, copies to it too; views and new memory "
    f"are none. Operations on lists of tensors take as many launches as torch's multi_tensor_apply ({TENSORS[0]} to "
    f"{TENSORS[-1]} tensors and {BLOCKS} blocks of {CHUNK:,} elements in each), and one more for norms; `cat` one for "
    f"{IN_A_CAT} tensors; the backward pass of a convolution one for each gradient. What cuDNN launches beyond that is "
    "not seen. A look is whatever has the host wait for a value: `.item()`, `nonzero` or a mask as index, a copy to "
    "the host. Counted on tensors without values, so a look of the host finds 0, or true."
)


class Kernels(TorchDispatchMode):
    """Counts launches by operation, and the host's looks at the device."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.looks: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = function.name().split("::")[1].split(".")[0]
        there = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.device == DEVICE]
        masked = name == "index" and any(t.dtype == torch.bool for t in _tensors(args[1]))
        if there and (name in LOOKS or masked):
            self.looks[name] += 1
            if name == "_local_scalar_dense":
                return there[0].dtype == torch.bool or there[0].new_zeros((), device="cpu").item()
        if there and name in ("_to_copy", "copy_") and _to_the_host(name, args, kwargs):
            self.looks["copy"] += 1
            return torch.zeros(there[0].shape, dtype=there[0].dtype, device="cpu")
        if name.startswith("_fused_"):
            result = None  # in place, and unknown to a device without values
        elif kwargs.get("device") == DEVICE and kwargs.pop("generator", None) is not None:
            result = getattr(torch.ops.aten, name)(*args, **kwargs)  # draws nothing
        else:
            result = function(*args, **kwargs)
        if there or any(t.device == DEVICE for t in _tensors(result)):
            self.launches[name] += 0 if function.is_view or name in NOT_LAUNCHED else _launches(name, args, result)
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _to_the_host(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return args[0].device.type == "cpu" if name == "copy_" else str(kwargs.get("device")) == "cpu"


def _launches(name: str, args: tuple[Any, ...], result: Any) -> int:
    if name.startswith(("_foreach_", "_fused_")):
        lists = [arg for arg in args if isinstance(arg, (list, tuple)) and arg and isinstance(arg[0], Tensor)]
        if name == "_foreach_norm":
            return 2 + _multi_tensor(lists[0], 1)
        # What is not in place writes a list of its own.
        return _multi_tensor(lists[0], len(lists) + (not name.endswith("_")))
    if name in ("cat", "stack"):
        return -(-len(args[0]) // IN_A_CAT)
    if name == "convolution_backward":
        return sum(tensor is not None for tensor in result)
    return 1


def _multi_tensor(tensors: Sequence[Tensor], lists: int) -> int:
    """Launches of `multi_tensor_apply` over so many lists of such tensors."""
    launches = held = blocks = 0
    for tensor in tensors:
        left = -(-tensor.numel() // CHUNK)
        held += left > 0
        while left:
            taken = min(left, BLOCKS - blocks)
            left, blocks = left - taken, blocks + taken
            if blocks == BLOCKS or (held == TENSORS[lists - 1] and not left):
                launches, blocks, held = launches + 1, 0, int(left > 0)
    return launches + (blocks > 0)


@contextmanager
def without_values() -> Iterator[None]:
    """Steps run on a device of which nothing can be asked."""
    with (
        patch.object(RandomReplay, "_state", lambda self: (torch.get_rng_state(), None)),
        patch.object(torch, "is_autocast_enabled", lambda device: False),
        patch("torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: ["meta"]),
        patch("torch.utils._foreach_utils._get_foreach_kernels_supported_devices", lambda: ["meta"]),
    ):
        yield


def counted(network: str, method: str, batch: int, recorded: bool) -> Kernels:
    """A step after the first, which makes the base's state; the host's part of a recorded one, `begin`, is outside."""
    (job,) = compose_jobs([f"model={network}", "dataset=cifar10"], multirun=False)
    model = build_model(job.config.model, (3, 32, 32), 10).to(DEVICE).train()
    optimizer = METHODS[method](model.named_parameters(), model=model)
    closure = BatchClosure(model, nn.CrossEntropyLoss(), Precision("fp32", DEVICE))
    x, y = torch.empty(batch, 3, 32, 32, device=DEVICE), torch.empty(batch, dtype=torch.int64, device=DEVICE)
    closure.load(x, y)
    with without_values():
        for _ in range(2):
            optimizer.begin()
            with Kernels() as kernels:
                if recorded:
                    optimizer.masked_step(closure, batch)
                else:
                    optimizer.step(closure, batch)
    return kernels


def counted_batch(augment: str, batch: int) -> Kernels:
    """Making a mini-batch out of images in the device's memory, after one that fills what is kept."""
    (job,) = compose_jobs([f"augment={augment}", "dataset=cifar10"], multirun=False)
    change = batch_augment(job.config.augment, (0.5,) * 3, (0.2,) * 3, 32)
    images = torch.empty(batch, 3, 32, 32, dtype=torch.uint8, device=DEVICE)
    for seed in range(2):
        with Kernels() as kernels:
            change(images, torch.Generator().manual_seed(seed))
    return kernels


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench kernels", description=__doc__)
    add = parser.add_argument
    add("--networks", type=names, default=["resnet20", "wrn28_10"], help="(default: resnet20,wrn28_10)")
    add("--methods", type=names, default=list(METHODS), help=f"(default: {','.join(METHODS)})")
    add("--batch", type=int, default=128)
    add("--before", type=Path, metavar="FILE", help="a --json file of another state of the code, to compare with")
    add("--json", type=Path, metavar="FILE", help="write all that was counted and where it comes from")
    add("--markdown", type=Path, metavar="FILE", help="write the table")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    cases: dict[str, Callable[[], Kernels]] = {
        f"{network}, {method}, {'recorded' if recorded else 'plain'}": partial(
            counted, network, method, given.batch, recorded
        )
        for network in given.networks
        for method in given.methods
        for recorded in (False, True)
    }
    cases |= {f"batch, augment={augment}": partial(counted_batch, augment, given.batch) for augment in AUGMENTS}
    rows: dict[str, dict[str, Any]] = {}
    for case, count in cases.items():
        show(case)
        kernels = count()
        rows[case] = {
            "launches": kernels.launches.total(),
            "looks": kernels.looks.total(),
            "by_operation": dict((kernels.launches + kernels.looks).most_common()),
        }
    before, of_before = None, ""
    if given.before:
        before = json.loads(given.before.read_text())
        of_before = f" Before: commit {before['provenance']['git_commit'][:7]}."
    head = ["step", "launches", "looks", *(["launches before", "looks before"] if before else [])]
    lines = [head]
    for case, row in rows.items():
        earlier = [before["rows"].get(case, {}).get(key, "") for key in ("launches", "looks")] if before else []
        lines.append([case, *map(str, (row["launches"], row["looks"], *earlier))])
    text = "\n".join(
        ["# Kernels in a training step", "",
         f"Written by `scripts/bench kernels`; batches of {given.batch} images of 3 x 32 x 32. {HOW}{of_before}", "",
         *aligned(lines)]
    ) + "\n"  # fmt: skip
    publish(text, {"provenance": {**provenance(), "batch": given.batch}, "rows": rows}, given)
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
