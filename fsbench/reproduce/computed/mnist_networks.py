"""The two small networks of Ibayashi et al. 2021, appendix F, untrained, on a few images of MNIST."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from fsbench.config.compose import compose_jobs
from fsbench.data import load_data
from fsbench.data.splits import MemorySplit
from fsbench.models import build_model
from fsbench.reproduce.computed import Context
from fsbench.sharpness import Risk


class Network(NamedTuple):
    """Its name in conf/model, and in the published numbers."""

    model: str
    published: str


NETWORKS = {"FCNN": Network("fcnn_small", "fcnn"), "CNN": Network("small_cnn", "cnn")}


def risk_of(network: str, n: int, seed: int, context: Context, dtype: torch.dtype) -> Risk:
    """Initial weights of `seed`, and `n` training images drawn with it; scaled to (-1, 1) as the paper does."""
    overrides = [f"model={NETWORKS[network].model}", "dataset=mnist", "setup=ibayashi2021"]
    (job,) = compose_jobs(overrides, multirun=False)
    data = load_data(job.config.dataset, context.data_dir)
    assert isinstance(data.train, MemorySplit)  # as MNIST's images are
    torch.manual_seed(seed)
    model = build_model(job.config.model, data.shape, data.classes).to(context.device, dtype).eval()
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:n]
    images = data.train.images[chosen].to(dtype) / 255
    mean, std = (torch.tensor(values, dtype=dtype)[:, None, None] for values in (data.mean, data.std))
    return Risk(model, functional.cross_entropy, [((images - mean) / std, data.train.labels[chosen])])
