"""Training steps of small problems on two gloo processes, or on one, told step by step."""

from __future__ import annotations

import fcntl
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from problems import batches, network_with_batchnorm, network_without_batchnorm
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from fsbench import sharpness
from fsbench.distributed.devices import Devices
from fsbench.optim import ASAM, FSAM, GSAM, SAM, Descent, FisherTrace, FriendlySAM, Processes
from fsbench.stop_signal import StopSignal
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.precision import Precision

# The last batches are smaller than two rows a process: the second one has none of them.
SIZES = (9, 8, 5, 3, 2)
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
LOSS = nn.CrossEntropyLoss(label_smoothing=0.1)


def regulariser(params: Any, model: nn.Module, **options: Any) -> FisherTrace:
    return FisherTrace(params, alpha=0.01, beta=2.0, sub_batches=4, start="immediately", model=model, **SGD, **options)


METHODS: dict[str, Callable[..., Descent]] = {
    "sgd": lambda p, model, **o: Descent(p, torch.optim.SGD, **SGD, **o),
    "sam": lambda p, model, **o: SAM(p, rho=0.1, **SGD, **o),
    "asam": lambda p, model, **o: ASAM(p, rho=0.5, **SGD, **o),
    "fsam": lambda p, model, **o: FSAM(p, rho=0.1, eta=1.0, **SGD, **o),
    "fsam-natural": lambda p, model, **o: FSAM(p, rho=0.1, eta=1.0, natural=True, **SGD, **o),
    "fsam-per-example": lambda p, model, **o: FSAM(p, rho=0.1, eta=1.0, fisher="per_example", **SGD, **o),
    "sam-m": lambda p, model, **o: SAM(p, rho=0.1, m=3, **SGD, **o),
    "gsam": lambda p, model, **o: GSAM(p, rho=0.1, **SGD, **o),
    "friendly": lambda p, model, **o: FriendlySAM(p, rho=0.1, **SGD, **o),
    "regulariser": regulariser,
    "clipped": lambda p, model, **o: SAM(p, rho=0.1, max_norm=0.1, **SGD, **o),
}
GLOBAL = {
    **{method: (method, {}) for method in METHODS},
    "accumulated": ("fsam", {"micro": 2}),
    "synced-sam": ("sam", {"network": "batchnorm", "sync_batchnorm": True}),
    "synced-regulariser": ("regulariser", {"network": "batchnorm", "sync_batchnorm": True}),
    "synced-per-example": ("fsam-per-example", {"network": "batchnorm", "sync_batchnorm": True}),
    "unusable": ("sam", {"unusable": True}),
}
OTHERS = {
    **{
        f"local-{method}": (method, {"perturbation": "local"}) for method in ("sam", "asam", "fsam", "fsam-per-example")
    },
    "local-unusable": ("sam", {"perturbation": "local", "unusable": True}),
    "own-batchnorm": ("sgd", {"network": "batchnorm"}),
}
NETWORKS = {"plain": network_without_batchnorm, "batchnorm": network_with_batchnorm}


def steps(
    devices: Devices,
    method: str,
    network: str = "plain",
    *,
    sync_batchnorm: bool = False,
    micro: int | None = None,
    unusable: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Train over batches of SIZES; what a process has to tell of it.

    Returns losses, hits, gradients (of each call of the closure, first step), weights and state after every step.
    `unusable`: the last row of the first batch is not finite.
    """
    model = NETWORKS[network]()
    model.train()
    optimizer = METHODS[method](model.named_parameters(), model, processes=devices, **options)
    closure = BatchClosure(model, LOSS, Precision("fp32", devices.device), micro, devices, sync_batchnorm)
    told: dict[str, Any] = {"losses": [], "hits": [], "gradients": [], "states": [], "skipped": []}

    def watched(*rows: slice, **named: Any) -> torch.Tensor:
        loss = closure(*rows, **named)
        if not told["states"]:
            told["gradients"].append([None if p.grad is None else p.grad.clone() for p in model.parameters()])
        return loss

    for x, y in batches(SIZES):
        own = list(devices.share.of(len(y)))
        if unusable and not told["states"]:
            x = torch.cat([x[:-1], x[-1:] * torch.inf])
        closure.load(x[own], y[own], len(y))
        told["losses"].append(float(optimizer.step(watched, size=len(y))))
        closure.after_step(bool(optimizer.skipped_in_a_row))
        told["hits"].append(int(closure.hits))
        told["skipped"].append(optimizer.skipped)
        told["states"].append({name: value.clone() for name, value in model.state_dict().items()})
    return told


WRAPPED: dict[str, Callable[..., Descent]] = {
    **{method: METHODS[method] for method in ("sam", "asam", "fsam", "fsam-natural", "clipped", "fsam-per-example")},
    "regulariser": lambda p, model, **o: FisherTrace(
        p, alpha=0.01, beta=2.0, sub_batches=2, start="immediately", **SGD
    ),
    "sam-m": lambda p, model, **o: SAM(p, rho=0.1, m=2, **SGD, **o),
}


def wrapped(method: str, model: nn.Module, rows: slice, size: int | None = None) -> tuple[Descent, list[torch.Tensor]]:
    """Three steps with a closure of one's own on these rows of each batch of 8; the weights after them."""
    optimizer = WRAPPED[method](model.named_parameters(), None)
    for x, y in batches((8, 8, 8)):
        x, y = x[rows], y[rows]

        def closure(part: slice | None = None, x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            loss = nn.functional.cross_entropy(model(x[part or slice(None)]), y[part or slice(None)])
            loss.backward()
            return loss.detach()

        optimizer.step(closure, size=size)
    return optimizer, [p.detach().clone() for p in model.parameters()]


def sharded(rank: int, method: str) -> Any:
    """By `fully_shard`, half of the rows on each process: the weights, and the angle to SAM's eps; or why not."""
    model = fully_shard(network_without_batchnorm(), mesh=init_device_mesh("cpu", (2,)))
    try:
        optimizer, weights = wrapped(method, model, slice(4 * rank, 4 * rank + 4), 4)
    except ValueError as refusal:
        return str(refusal)
    x, y = batches((8,))[0]
    optimizer.compare = True
    optimizer.step(lambda: _pass(model, x, y))
    return [w.full_tensor() for w in weights], optimizer.alignment


def _pass(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    return loss.detach()


def in_buckets(rank: int, method: str, views: bool) -> list[torch.Tensor]:
    """By DistributedDataParallel, whose gradients lie in its buckets if `views`."""
    model = nn.parallel.DistributedDataParallel(network_without_batchnorm(), gradient_as_bucket_view=views)
    return wrapped(method, model, slice(4 * rank, 4 * rank + 4), 4)[1]


MEASURES: dict[str, Callable[[sharpness.Risk], Any]] = {
    "trace": sharpness.hessian_trace,
    "trace-hutchinson": lambda risk: sharpness.hessian_trace(risk, method="hutchinson", probes=5, seed=1),
    "trace-baseline": lambda risk: sharpness.hessian_trace(risk, method="baseline"),
    "trace-of-drawn-classes": lambda risk: sharpness.hessian_trace(risk, classes=2),
    "diagonal": sharpness.hessian_diagonal,
    "diagonal-2020": lambda risk: sharpness.hessian_diagonal(risk, method="2020", probes=3),
    "minimum": sharpness.minimum_sharpness,
    "matrix-normalized": sharpness.matrix_normalized_sharpness,
    "normalized": sharpness.normalized_sharpness,
    "fisher-trace": sharpness.fisher_trace,
    "fisher-trace-of-groups": lambda risk: sharpness.fisher_trace(risk, sub_batch=4),
    "fisher-determinant": lambda risk: sharpness.fisher_log_determinant(risk, subset_size=3, subsets=2),
    "frobenius": sharpness.hessian_frobenius_norm,
    "fisher-rao": sharpness.fisher_rao_norm,
    "robustness": sharpness.input_robustness,
    "worst-case": lambda risk: sharpness.worst_case_sharpness(risk, neighbourhood="fsam", steps=3),
    "adversarial": lambda risk: sharpness.adversarial_perturbation(risk, [0.1, 1.0], evaluate_on=risk.batches),
    "gradient-norm": sharpness.gradient_norm,
    "gradient-snr": sharpness.gradient_snr,
    "average-case": lambda risk: sharpness.average_case_sharpness(risk, draws=3),
    "worst-case-apgd": lambda risk: sharpness.worst_case_sharpness_apgd(risk, group_size=4, steps=2),
    "epsilon": lambda risk: sharpness.epsilon_sharpness(risk, steps=3),
    "pacbayes": lambda risk: sharpness.pacbayes_sigma(risk, draws=3, rise=0.05),
    "eigenvalues": lambda risk: sharpness.hessian_top_eigenvalues(risk, k=2),
}


def measured(processes: Processes) -> dict[str, Any]:
    """Every measure over this process's rows of three batches, or why it is refused."""
    model = network_without_batchnorm().eval()
    data = []
    for x, y in batches((9, 8, 5)):
        own = list(range(processes.rank, len(y), processes.count))
        data.append((x[own], y[own]))
    risk = sharpness.Risk(model, nn.functional.cross_entropy, data, processes=processes)
    found: dict[str, Any] = {}
    for name, measure in MEASURES.items():
        try:
            found[name] = measure(risk)
        except sharpness.Refused as refusal:
            found[name] = str(refusal)
    changing = iter(range(100))

    class Changing:
        """Other examples on the second process, in every pass."""

        def __iter__(self):
            yield data[0][0] + next(changing) * processes.rank, data[0][1]

    try:
        other = sharpness.Risk(model, nn.functional.cross_entropy, Changing(), processes=processes)
        other.value()
        other.value()
    except sharpness.Refused as refusal:
        found["changing"] = str(refusal)
    try:
        empty = data if processes.rank == 0 else []
        sharpness.Risk(model, nn.functional.cross_entropy, empty, processes=processes)
    except sharpness.Refused as refusal:
        found["empty"] = str(refusal)
    return found


def steps_to_the_stop(devices: Devices, asked: int = 45) -> int:
    """After how many steps all devices know that one was asked to stop."""
    stop = StopSignal()
    agreed = devices.agreed(stop)
    for step in range(1, 1000):
        stop.requested = step >= asked and devices.rank == devices.count - 1
        if agreed.requested_between_steps():
            return step
    raise AssertionError("nobody told")


def on_two(place: Path) -> dict[str, list[Any]]:
    """What both processes tell of each case and of "sharpness"; and how a "failure" of the second reaches the first.

    They tell it once, to all who ask with the same directory.
    """
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "told").exists():
            mp.spawn(_process, args=(str(place),), nprocs=2)
            (place / "told").touch()
    told = [torch.load(place / f"{rank}.pt", weights_only=False) for rank in range(2)]
    return {name: [of[name] for of in told] for name in told[0]}


def _process(rank: int, place: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{place}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    devices = Devices(torch.device("cpu"), rank, 2, dist.PrefixStore("fsbench", store))
    told: dict[str, Any] = {
        name: steps(devices, method, **options) for name, (method, options) in (GLOBAL | OTHERS).items()
    }
    told["sharded"] = {method: sharded(rank, method) for method in WRAPPED if method != "sam-m"}
    told["buckets"] = {method: [in_buckets(rank, method, views) for views in (True, False)] for method in WRAPPED}
    told["sharpness"] = measured(devices)
    told["numbers"] = (devices.total(rank + 1, 0.5), devices.any(rank == 1), devices.gathered(rank),
                       devices.from_first(lambda: f"of {rank}"))  # fmt: skip
    told["stop"] = steps_to_the_stop(devices)
    try:
        with devices.failing_together():
            if rank == 1:
                raise ZeroDivisionError("made up")
            devices.any(False)
            devices.any(False)
    except Exception as failure:
        told["failure"] = (type(failure).__name__, str(failure), getattr(failure, "traceback", "") and "told")
        if "made up" not in str(failure):
            traceback.print_exc()
    torch.save(told, f"{place}/{rank}.pt")
    dist.destroy_process_group()
