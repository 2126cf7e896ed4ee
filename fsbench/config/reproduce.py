"""The options of `fsbench reproduce`, checked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, model_validator

from fsbench.config.executor import ExecutorOptions
from fsbench.config.options import Options, PathText


class ReproduceConfig(Options):
    """The configuration of `conf/reproduce.yaml`; artefacts, axes and changes of the runs stand beside it."""

    scale: Literal["paper", "small", "tiny"]
    plan: bool
    render: bool
    measure: bool
    seeds: Annotated[int, Field(ge=1, le=1000)] | None
    stands_for: Annotated[str, Field(min_length=1)] | None
    results_dir: PathText
    runs_dir: PathText
    data_dir: PathText
    executor: SerializeAsAny[ExecutorOptions]
    device: Literal["auto", "cpu", "cuda"]
    progress: bool

    @model_validator(mode="after")
    def _is_there(self) -> ReproduceConfig:
        if self.plan and self.render:
            raise ValueError("plan=true: shows what would be run; with render=true nothing is")
        return self
