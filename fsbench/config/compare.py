"""The options of `fsbench compare`, checked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from fsbench.config.executor import ExecutorOptions
from fsbench.config.options import Options, PathText


class CompareConfig(Options):
    """The configuration of `conf/compare.yaml`; methods, settings and changes of the runs stand beside it."""

    seeds: Annotated[int, Field(ge=2, le=1000)]
    trials: Annotated[int, Field(ge=0, le=1000)]
    held_out: Annotated[int, Field(ge=1)] | None
    budget: Literal["epochs", "passes", "both"]
    metric: Literal[
        "test_accuracy", "best_test_accuracy", "test_loss", "generalization_gap", "train_accuracy", "train_loss"
    ]
    pairs: Annotated[list[str], Field(min_length=1)] | Literal["all"] | None
    delta: Annotated[float, Field(gt=0)]
    plan: bool
    out: PathText | None
    runs_dir: PathText
    data_dir: PathText
    executor: SerializeAsAny[ExecutorOptions]
    device: Literal["auto", "cpu", "cuda"]
    progress: bool
