"""The whole configuration of `fsbench evaluate`, checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from fsbench.config.augment import AugmentOptions
from fsbench.config.options import Options, PathText
from fsbench.config.sharpness import AnyDataset


class EvaluateConfig(Options):
    """A finished run, and the images that its network is evaluated on: what `conf/evaluate.yaml` composes to."""

    run: PathText
    dataset: AnyDataset
    split: Literal["test", "train", "validation"]
    device: Literal["auto", "cpu", "cuda"]
    workers: Annotated[int, Field(ge=0, le=1024)]
    data_dir: PathText | None
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    # Data sets bring it along; images are cut as the run's own are.
    augment: AugmentOptions | None = None

    @field_validator("run", mode="before")
    @classmethod
    def _is_given(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("run=null: give a finished run, run=runs/ID")
        return value
