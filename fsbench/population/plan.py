"""Which runs of a sweep can be trained together. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fsbench.config.compose import Job
from fsbench.config.train import TrainConfig
from fsbench.runs.identity import flatten

# What the members of a population may differ in: every other key is the same in all.
OWN = {
    "seed", "run_name", "overwrite",
    "dataset.seed", "dataset.noise", "dataset.noise_includes_self", "dataset.random_labels", "dataset.permute_labels",
    "dataset.label",
    "optimizer.lr", "optimizer.rho", "optimizer.eta",
    "base.momentum", "base.weight_decay", "base.betas", "base.eps",
}  # fmt: skip
# More members than this are trained as several populations.
MOST = 256


def obstacle(config: TrainConfig) -> str | None:
    """The reason that this run can only be trained alone; None where it can be a member of a population."""
    trainer, data, method = config.trainer, config.dataset, config.optimizer
    reasons = {
        f"model.family={config.model.family}: networks with BatchNorm or dropout": (config.model.batchnorm),
        f"dataset={data.name}: images that may be streamed from files": (data.in_files),
        f"optimizer={method.name}: {method.not_stackable}": not method.stackable,
        "optimizer.m: gradients of several sub-batches": getattr(method, "m", None) is not None,
        "optimizer.fisher: gradients of single examples": getattr(method, "fisher", "batch") != "batch",
        "optimizer.perturbation=local: one device's own": getattr(method, "perturbation", "global") == "local",
        "optimizer.start, optimizer.stop: one pass in a part of the training": (
            method.stackable and (getattr(method, "start", 0), getattr(method, "stop", 1)) != (0, 1)
        ),
        "trainer.micro_batch_size: batches in pieces": trainer.micro_batch_size is not None,
        f"trainer.precision={trainer.precision}: a population is trained in fp32": trainer.precision != "fp32",
        f"trainer.devices={trainer.devices}: several devices for one run": trainer.devices > 1,
        f"trainer.average={trainer.average}: averages one network": trainer.average != "none",
        "trainer.compile=true: one network is compiled": trainer.compile,
        "trainer.fast_dev_run=true: two steps": trainer.fast_dev_run,
        f"logger={config.logger.name}: follows one run": config.logger.name != "none",
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def populations(jobs: Sequence[Job]) -> tuple[list[list[int]], dict[int, str]]:
    """Groups of at least two jobs, by their numbers, that are trained together; and of the others that ask for it why
    not."""
    alike: dict[str, list[int]] = {}
    alone: dict[int, str] = {}
    for number, job in enumerate(jobs):
        if not job.config.trainer.population:
            continue
        if (reason := obstacle(job.config)) is not None:
            alone[number] = reason
            continue
        shared = {key: value for key, value in flatten(job.config.model_dump(mode="json")).items() if key not in OWN}
        alike.setdefault(json.dumps(shared, sort_keys=True), []).append(number)
    groups = []
    for members in alike.values():
        if len(members) == 1:
            alone[members[0]] = "no other run is like it but for what members may differ in"
            continue
        parts = -(-len(members) // MOST)
        groups += [members[part::parts] for part in range(parts)]
    return groups, alone
